#!/usr/bin/env python3
"""kafka_dump_check.py EXPECTED [--all-codecs] < DUMP: compares what Kafka read with what was sent.

DUMP is the output of scripts/kafka-dump.sh over the fragments of one partition, in order. EXPECTED holds one JSON
object a line for every record from the first offset on: `offset`, and any of `timestamp`, `key` (text or null),
`value_bytes` and `value_crc32` (null for a null value), `headers` (their keys: DumpLogSegments prints no more).

Exits with 1 at the first difference, and says where it is.
"""

import argparse
import collections
import json
import re
import sys
import zlib

BATCH = re.compile(
    rb"baseOffset: (?P<base>\d+) lastOffset: (?P<last>\d+) count: (?P<count>\d+) .*"
    rb" position: (?P<position>\d+) (?:CreateTime|LogAppendTime): -?\d+ size: (?P<size>\d+)"
    rb" magic: 2 compresscodec: (?P<codec>\w+) crc: \d+ isvalid: (?P<valid>\w+)\n"
)
# Keys and values follow; as they may hold anything, line ends too, only their sizes tell where they end.
RECORD = re.compile(
    rb"\| offset: (?P<offset>\d+) (?:CreateTime|LogAppendTime): (?P<timestamp>-?\d+)"
    rb" keySize: (?P<key>-?\d+) valueSize: (?P<value>-?\d+) sequence: -?\d+ headerKeys: \[(?P<headers>[^\]\n]*)\]"
)
FILE = re.compile(rb"Dumping (?P<path>.*)\nLog starting offset: (?P<start>\d+)\n")


class Difference(Exception):
    pass


def require(condition, message):
    if not condition:
        raise Difference(message)


class Dump:
    """Walks through the dump's text; remembers where the next batch and the next record must be."""

    def __init__(self, text):
        self.text = text
        self.at = 0
        self.position = 0
        self.next_offset = None
        self.batch_end = None
        self.fragments = 0
        self.codecs = collections.Counter()

    def match(self, pattern):
        found = pattern.match(self.text, self.at)
        if found:
            self.at = found.end()
        return found

    def take(self, literal, size):
        """The `size` bytes behind `literal`."""
        if not self.text.startswith(literal, self.at):
            raise Difference(f"no {literal.decode()!r} {self.here()}")
        start = self.at + len(literal)
        self.at = start + size
        return self.text[start : self.at]

    def here(self):
        line = self.text[self.at : self.at + 200].split(b"\n", 1)[0]
        return f"at byte {self.at} of the dump: {line.decode(errors='replace')!r}"

    def records(self):
        while self.at < len(self.text):
            if found := self.match(FILE):
                self.begin_fragment(int(found["start"]))
            elif found := self.match(BATCH):
                self.begin_batch(found)
            elif found := self.match(RECORD):
                yield self.record(found)
            else:
                raise Difference(f"Kafka has something to say {self.here()}")
        self.end_batch()

    def begin_fragment(self, start):
        self.end_batch()
        require(self.next_offset in (None, start), f"a fragment starts at {start}, not at {self.next_offset}")
        self.next_offset = start
        self.position = 0
        self.fragments += 1

    def begin_batch(self, found):
        self.end_batch()
        base, last, count, position = (int(found[name]) for name in ("base", "last", "count", "position"))
        require(found["valid"] == b"true", f"the batch at {base} has a wrong CRC")
        require(base == self.next_offset, f"a batch starts at {base}, not at {self.next_offset}")
        require(count == last - base + 1, f"the batch at {base} has {count} records up to {last}")
        require(position == self.position, f"the batch at {base} lies at {position}, not at {self.position}")
        self.position += int(found["size"])
        self.batch_end = last + 1
        self.codecs[found["codec"].decode()] += 1

    def end_batch(self):
        require(
            self.batch_end in (None, self.next_offset),
            f"the batch before {self.batch_end} holds records up to {self.next_offset} only",
        )

    def record(self, found):
        offset = int(found["offset"])
        require(offset == self.next_offset, f"offset {offset} follows, not {self.next_offset}")
        require(self.batch_end is not None and offset < self.batch_end, f"offset {offset} is in no batch")
        self.next_offset += 1
        key_size, value_size = int(found["key"]), int(found["value"])
        key = self.take(b" key: ", key_size) if key_size >= 0 else None
        value = self.take(b" payload: ", value_size) if value_size >= 0 else None
        self.take(b"\n", 0)
        return {
            "offset": offset,
            "timestamp": int(found["timestamp"]),
            "key": None if key is None else key.decode(),
            "value_bytes": None if value is None else len(value),
            "value_crc32": None if value is None else zlib.crc32(value),
            "headers": found["headers"].decode().split(",") if found["headers"] else [],
        }


def compare(dump, lines):
    count = 0
    for record in dump.records():
        line = next(lines, None)
        require(line is not None, f"offset {record['offset']} was never sent")
        for field, value in json.loads(line).items():
            require(
                record[field] == value,
                f"offset {record['offset']}: {field} is {record[field]!r}, but {value!r} was sent",
            )
        count += 1
    missing = next(lines, None)
    require(missing is None, f"the dump ends after {count} records; the next one sent is {(missing or '').strip()}")
    return count


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("expected")
    arguments.add_argument("--all-codecs", action="store_true", help="every codec must be among the batches")
    options = arguments.parse_args()

    dump = Dump(sys.stdin.buffer.read())
    try:
        with open(options.expected, encoding="utf-8") as lines:
            count = compare(dump, lines)
        missing = {"none", "gzip", "snappy", "lz4", "zstd"} - dump.codecs.keys()
        require(not (options.all_codecs and missing), f"no batch is compressed by {', '.join(sorted(missing))}")
    except Difference as difference:
        sys.exit(f"kafka_dump_check.py: {difference}")
    codecs = ", ".join(f"{number} {codec}" for codec, number in sorted(dump.codecs.items()))
    print(f"Kafka read {count} records as sent, in {dump.fragments} fragments, batches: {codecs}")


if __name__ == "__main__":
    main()
