#!/usr/bin/env bash
# kafka-jars.sh DIR: brings the jars of Apache Kafka 4.1 from Maven Central into DIR/jars, once, and prints that folder.
# Needs Java 17 and Maven; exits with 77 without them.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

[ $# -eq 1 ] || { echo "usage: kafka-jars.sh DIR" >&2; exit 2; }
for tool in java mvn; do
  command -v "$tool" > /dev/null || { echo "kafka-jars.sh: missing: $tool (Java 17 and Maven are needed)" >&2; exit 77; }
done
mkdir -p "$1"
jars=$(cd "$1" && pwd)/jars
if [ ! -e "$jars/complete" ]; then
  # Maven writes beside the pom; ours stays as it is.
  mkdir -p "$jars"
  cp "$here/kafka-dump.pom.xml" "$jars/pom.xml"
  mvn --quiet --batch-mode -Dstyle.color=never --file "$jars/pom.xml" dependency:copy-dependencies -DoutputDirectory="$jars" >&2
  touch "$jars/complete"
fi
echo "$jars"
