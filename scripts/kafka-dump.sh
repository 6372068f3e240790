#!/usr/bin/env bash
# kafka-dump.sh DIR FRAGMENT...: Apache Kafka's own DumpLogSegments reads fragments, record by record.
#
# The jars of Kafka 4.1 come from Maven Central into DIR, once. Needs Java 17 and Maven; exits with 77 without them.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

[ $# -ge 2 ] || { echo "usage: kafka-dump.sh DIR FRAGMENT..." >&2; exit 2; }
for tool in java mvn; do
  command -v "$tool" > /dev/null || { echo "kafka-dump.sh: missing: $tool (Java 17 and Maven are needed)" >&2; exit 77; }
done
mkdir -p "$1"
jars=$(cd "$1" && pwd)/jars
shift

if [ ! -e "$jars/complete" ]; then
  # Maven writes beside the pom; ours stays as it is.
  mkdir -p "$jars"
  cp "$here/kafka-dump.pom.xml" "$jars/pom.xml"
  mvn --quiet --batch-mode -Dstyle.color=never --file "$jars/pom.xml" dependency:copy-dependencies -DoutputDirectory="$jars" >&2
  touch "$jars/complete"
fi

files=$(IFS=,; echo "$*")
# Keys and values are printed as text: in UTF-8, whatever the locale says (each Java version has its own name for it).
exec java -Xmx512m -cp "$jars/*" -Dfile.encoding=UTF-8 -Dsun.stdout.encoding=UTF-8 -Dstdout.encoding=UTF-8 \
  -Dorg.slf4j.simpleLogger.defaultLogLevel=warn \
  kafka.tools.DumpLogSegments --deep-iteration --print-data-log --files "$files"
