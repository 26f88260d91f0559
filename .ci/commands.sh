#!/usr/bin/env bash
# README's commands with Kafka's own tools, and with kcat where there is one, pasted as they
# stand, on the broker of `make kafka` (KAFKA_BROKERS). The example programs fill the topics.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
: "${KAFKA_BROKERS:?}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# block TEXT: the sh block of README that contains a text.
block() {
	awk -v text="$1" '/^```sh$/{code = 1; lines = ""; next} /^```$/{if (code && index(lines, text)) printf "%s", lines; code = 0} code{lines = lines $0 "\n"}' README.md
}

# shows WHAT FILE: the output must show it.
shows() { grep -qE "$1" "$2" || { echo "README's commands did not show: $1"; tail -30 "$2"; exit 1; }; }

block 'tool topics --create' >"$work/tools.sh"
sed -n '/^# lag/q;p' "$work/tools.sh" | bash -e >"$work/topics.log" 2>&1
shows '^events-retry-3$' "$work/topics.log"

go build -o "$work/" ./examples/consumer ./examples/producer
HEALTH_ADDR=127.0.0.1:0 "$work/consumer" >"$work/consumer.log" 2>&1 &
consumer=$!
HEALTH_ADDR=127.0.0.1:0 "$work/producer" >"$work/producer.log" 2>&1
for _ in $(seq 300); do
	[ "$(grep -c '"msg":"event handled"' "$work/consumer.log")" -lt 95 ] || break
	sleep 0.1
done
bash "$work/tools.sh" >"$work/tools.log" 2>&1
kill -TERM "$consumer"
wait "$consumer"
shows '^event-processor-group +events ' "$work/tools.log"
shows '^event-processor-group-retry +events-retry-1 ' "$work/tools.log"
shows '^customer-[0-9].*"number":' "$work/tools.log"
shows 'kstage-reason:permanent.*"fails":"always"' "$work/tools.log"

command -v kcat >/dev/null || { echo "SKIP: the commands of kcat, which is not here"; exit 0; }
block 'kcat -b' | bash -e >"$work/kcat.log" 2>&1
shows 'topic "events-dlq" with 3 partitions' "$work/kcat.log"
shows 'kstage-reason=permanent' "$work/kcat.log"
