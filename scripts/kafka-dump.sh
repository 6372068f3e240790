#!/usr/bin/env bash
# kafka-dump.sh DIR FRAGMENT...: Apache Kafka's own DumpLogSegments reads fragments, record by record.
#
# DIR keeps Kafka's jars. Needs Java 17 and Maven; exits with 77 without them.
set -euo pipefail

[ $# -ge 2 ] || { echo "usage: kafka-dump.sh DIR FRAGMENT..." >&2; exit 2; }
jars=$("$(dirname "$0")/kafka-jars.sh" "$1")
shift
files=$(IFS=,; echo "$*")
# Keys and values are printed as text: in UTF-8, whatever the locale says (each Java version has its own name for it).
exec java -Xmx512m -cp "$jars/*" -Dfile.encoding=UTF-8 -Dsun.stdout.encoding=UTF-8 -Dstdout.encoding=UTF-8 \
  -Dorg.slf4j.simpleLogger.defaultLogLevel=warn \
  kafka.tools.DumpLogSegments --deep-iteration --print-data-log --files "$files"
