#!/usr/bin/env bash
# Three brokers, replication factor 3, at least 2 in sync, acks=all, records of 1 KiB: ours, Apache Kafka as it comes (it acknowledges
# from memory), and Kafka with flush.messages=1 (synced before the ack, as ours are), in turns on the same disk, ROUNDS times.
# Each with its own producer, with batches of the same size. Prints each turn, and the ratios of the medians.
#
# GOULETTE_BIN names our binary (default: bin/goulette), RECORDS the load (400000), PARTITIONS of the topic (3), BATCH_BYTES of both
# producers (524288), BENCH_DIR where all keep their data, KAFKA the folder of Kafka's jars. Exits with 77 without Java and Maven.
set -euo pipefail
cd "$(dirname "$0")/.."
goulette=$(realpath "${GOULETTE_BIN:-bin/goulette}")
rounds=${ROUNDS:-2} records=${RECORDS:-400000} partitions=${PARTITIONS:-3} batch=${BATCH_BYTES:-524288}
warm_up=$((records / 4))
jars=$(scripts/kafka-jars.sh "${KAFKA:-target/kafka-tools}")
dir=$(mktemp -d "${BENCH_DIR:-$PWD/target}/bench-replication.XXXXXX")
pids=()
stop() {
  [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2> /dev/null || true
  wait
  pids=()
  rm -rf "$dir/data"
}
trap 'stop; rm -rf "$dir"' EXIT

# Each call gives the next one that is free, so that no two of a turn are the same.
port=$((20000 + RANDOM % 8000))
next_port() {
  while :; do
    port=$((port + 1))
    (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null || return 0
  done
}

until_done() { # what, command...
  local what=$1 deadline=$((SECONDS + 180))
  shift
  until "$@" > "$dir/said" 2>&1; do
    [ $SECONDS -lt $deadline ] || { echo "in vain: $what" >&2; cat "$dir/said" >&2; exit 1; }
    sleep 0.2
  done
}

# Both print: MB/s (millions of bytes), then the 50th and 99th percentile of the time to the ack in ms.

ours() {
  mkdir "$dir/data"
  local sentinel number
  next_port
  sentinel=127.0.0.1:$port
  "$goulette" sentinel -address "$sentinel" -data "$dir/data/sentinel" -enable-embedded-etcd=false -admin-address off \
    -log-dir "$dir/data/logs" -log-level warn > "$dir/sentinel.out" 2>&1 &
  pids+=($!)
  until_done "the sentinel serves" "$goulette" health "$sentinel"
  for number in 1 2 3; do
    next_port
    "$goulette" broker -id "broker$number" -address "127.0.0.1:$port" -data "$dir/data/broker$number" -sentinel "$sentinel" \
      -admin-address off -log-dir "$dir/data/logs" -log-level warn > "$dir/broker$number.out" 2>&1 &
    pids+=($!)
    until_done "broker $number is registered" bash -c "'$goulette' cluster status --sentinel $sentinel | grep -q '^broker$number .*healthy'"
  done
  "$goulette" topic create bench -partitions "$partitions" -replication-factor 3 -config min_insync_replicas=2 \
    --sentinel "$sentinel" > /dev/null
  produce_ours "$sentinel" "$warm_up" > /dev/null
  produce_ours "$sentinel" "$records"
  stop
}

produce_ours() { # sentinel, records
  "$goulette" bench produce --sentinel "$1" --topic bench --records "$2" --size 1024 --window 100000 --batch-bytes "$batch" \
    --acks all --output json 2> /dev/null \
    | python3 -c 'import json, sys; f = json.load(sys.stdin); print(f["mb_per_s"], f["ack_ms_p50"], f["ack_ms_p99"])'
}

kafka() { # heap, class, arguments...
  local heap=$1
  shift
  # The flags of Kafka's own start script.
  java -Xmx"$heap" -Xms"$heap" -server -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 \
    -XX:+ExplicitGCInvokesConcurrent -cp "$jars/*" -Dorg.slf4j.simpleLogger.defaultLogLevel=warn "$@"
}

theirs() { # settings of the topic...
  mkdir "$dir/data"
  local number brokers=() controllers=() voters bootstrap id
  for number in 1 2 3; do
    next_port
    brokers+=("127.0.0.1:$port")
    next_port
    controllers+=("127.0.0.1:$port")
  done
  voters="1@${controllers[0]},2@${controllers[1]},3@${controllers[2]}" bootstrap=${brokers[0]},${brokers[1]},${brokers[2]}
  id=$(kafka 256m kafka.tools.StorageTool random-uuid)
  for number in 1 2 3; do
    cat > "$dir/kafka$number.properties" << END
process.roles=broker,controller
node.id=$number
controller.quorum.voters=$voters
listeners=PLAINTEXT://${brokers[number - 1]},CONTROLLER://${controllers[number - 1]}
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs=$dir/data/kafka$number
END
    kafka 256m kafka.tools.StorageTool format -t "$id" -c "$dir/kafka$number.properties" > "$dir/format.out" 2>&1
    kafka 1g kafka.Kafka "$dir/kafka$number.properties" > "$dir/kafka$number.out" 2>&1 &
    pids+=($!)
  done
  until_done "the topic is made" kafka 256m org.apache.kafka.tools.TopicCommand --bootstrap-server "$bootstrap" --create \
    --if-not-exists --topic bench --partitions "$partitions" --replication-factor 3 --config min.insync.replicas=2 "$@"
  produce_theirs "$bootstrap" "$warm_up" > /dev/null
  produce_theirs "$bootstrap" "$records"
  stop
}

produce_theirs() { # brokers, records
  kafka 512m org.apache.kafka.tools.ProducerPerformance --topic bench --num-records "$2" --record-size 1024 --throughput -1 \
    --producer-props bootstrap.servers="$1" acks=all batch.size="$batch" linger.ms=5 buffer.memory=67108864 2> "$dir/producer.err" \
    | awk '/99th/ { rate = $4; for (i = 1; i <= NF; i++) { if ($i == "50th,") median = $(i - 2); if ($i == "99th,") late = $(i - 2) }
                    print rate * 1024 / 1e6, median, late; found = 1 } END { exit !found }' \
    || { cat "$dir/producer.err" >&2; exit 1; }
}

turn() { # name, command...
  local name=$1
  shift
  "$@" > "$dir/figures"
  echo "$name $(cat "$dir/figures")" | tee -a "$dir/results"
}

echo "who, MB/s, ack p50 ms, ack p99 ms ($partitions partitions, $records records of 1 KiB after $warm_up to warm up, batches of $batch bytes)"
for _ in $(seq "$rounds"); do
  turn goulette-synced ours
  turn kafka-default theirs
  turn kafka-synced theirs --config flush.messages=1
done
awk '
  { n[$1]++; value[$1, n[$1]] = $2 }
  function median(name,    i, j, count, sorted, swap) {
    count = n[name]
    for (i = 1; i <= count; i++) sorted[i] = value[name, i] + 0
    for (i = 1; i <= count; i++) for (j = i + 1; j <= count; j++) if (sorted[j] < sorted[i]) { swap = sorted[i]; sorted[i] = sorted[j]; sorted[j] = swap }
    return count % 2 ? sorted[(count + 1) / 2] : (sorted[count / 2] + sorted[count / 2 + 1]) / 2
  }
  END {
    ours = median("goulette-synced")
    printf "medians: goulette, synced %.1f MB/s; %.2f x Kafka as it comes (%.1f), %.2f x Kafka synced (%.1f)\n",
      ours, ours / median("kafka-default"), median("kafka-default"), ours / median("kafka-synced"), median("kafka-synced")
  }' "$dir/results"
