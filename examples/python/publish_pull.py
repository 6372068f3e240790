#!/usr/bin/env python3
"""Publishes records and pulls them back: publish_pull.py [SENTINEL] [TOPIC].

Needs grpcio and grpcio-tools (requirements.txt) and the .proto files of this repository, and nothing else of Goulette:
any language with gRPC can do the same. Exits with 1 if what comes back is not what was sent.
"""

import pathlib
import sys

import grpc

# grpcio-tools builds the classes from the .proto files while it imports them; they are looked for on sys.path.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "crates/proto/proto"))
common = grpc.protos("goulette/v1/common.proto")
sentinel_pb, sentinel_services = grpc.protos_and_services("goulette/v1/sentinel.proto")
broker_pb, broker_services = grpc.protos_and_services("goulette/v1/broker.proto")

TIMEOUT = 10  # seconds, for each call
PARTITION = 0


def find_leader(sentinel, topic):
    """The address of the broker that leads the partition; the topic is created if it is absent."""
    with grpc.insecure_channel(sentinel) as channel:
        stub = sentinel_services.SentinelStub(channel)
        request = sentinel_pb.GetBrokersRequest(topic=topic, create=True)
        answer = stub.GetBrokers(request, timeout=TIMEOUT, wait_for_ready=True)
    leader = answer.topic.partitions[PARTITION].leader
    addresses = {broker.id: broker.address for broker in answer.brokers}
    if leader not in addresses:
        sys.exit(f"nobody leads partition {PARTITION} of {topic}: {answer.topic.partitions[PARTITION].offline}")
    return addresses[leader]


def content(record):
    """What a program sees of a record. A field that is absent is null, which is not the same as empty."""
    key = record.key if record.HasField("key") else None
    value = record.value if record.HasField("value") else None
    headers = [(header.key, header.value if header.HasField("value") else None) for header in record.headers]
    return key, value, headers


def main(sentinel="127.0.0.1:50052", topic="python"):
    header = common.Header(key="language", value=b"python")
    records = [common.Record(key=b"k%d" % n, value=b"message %d" % n, headers=[header]) for n in range(100)]
    records.append(common.Record(key=b"gone"))  # a null value: a tombstone
    records.append(common.Record(value=b"\xff\x00 bytes of any kind"))

    with grpc.insecure_channel(find_leader(sentinel, topic)) as channel:
        broker = broker_services.BrokerStub(channel)
        # The answer comes when every record is on disk.
        published = broker.Publish(
            broker_pb.PublishRequest(topic=topic, partition=PARTITION, records=records), timeout=TIMEOUT
        )
        print(f"published {len(published.offsets)} records from offset {published.offsets[0]} on")

        pulled, next_offset = [], published.offsets[0]
        while len(pulled) < len(records):
            start = broker_pb.Start(offset=next_offset)
            request = broker_pb.PullRequest(topic=topic, partition=PARTITION, start=start, records_max=40, wait_ms=5000)
            answer = broker.Pull(request, timeout=TIMEOUT)
            if not answer.records:
                sys.exit(f"nothing follows offset {next_offset}")
            pulled += answer.records
            next_offset = answer.next

    if [record.offset for record in pulled] != list(published.offsets):
        sys.exit("the offsets pulled are not those published")
    if [content(record) for record in pulled] != [content(record) for record in records]:
        sys.exit("the records pulled are not those published")
    print(f"pulled {len(pulled)} records back, as they were sent")


if __name__ == "__main__":
    main(*sys.argv[1:])
