#!/usr/bin/env bash
# What a stranger does: a module of their own, `go get`, README's first service. It packs the
# commit into a module proxy in a directory, so that nothing has to be published.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
repo=$PWD
module=$(go list -m)
version=v0.0.1
work=$(mktemp -d)
pids=()
finish() {
	[ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
	GOMODCACHE=$work/cache go clean -modcache || true
	rm -rf "$work"
}
trap finish EXIT

# pack: the module as a proxy serves it, without the modules nested in it.
pack() {
	local at=$work/proxy/$module/@v nested
	mkdir -p "$at"
	nested=$(git ls-files '*/go.mod' | xargs -r -n1 dirname | sed 's/^/:!/')
	# shellcheck disable=SC2086 # a list
	git archive --format=zip --prefix="$module@$version/" -o "$at/$version.zip" HEAD . $nested
	git show HEAD:go.mod >"$at/$version.mod"
	printf '{"Version":"%s","Time":"2026-01-01T00:00:00Z"}\n' "$version" >"$at/$version.info"
	echo "$version" >"$at/list"
}

# A cache of its own: the version means something else in each run. What it needs of
# others comes from the machine's cache first.
own_cache() {
	local had
	had=$(go env GOMODCACHE)
	export GOPROXY="file://$work/proxy,file://$had/cache/download,$(go env GOPROXY)"
	export GONOSUMDB=$module GOMODCACHE=$work/cache GOFLAGS=-mod=mod
}

# first_service: the program of README's section.
first_service() {
	awk '/^## /{in_section = ($0 == "## A first service")} in_section && /^```go$/{code = 1; next} /^```$/{code = 0} code' "$repo/README.md"
}

# links: the modules of the service's binary.
links() {
	go list -deps -f '{{with .Module}}{{.Path}}{{end}}' . | sort -u | grep -v '^example.com/service$'
}

# until_true COMMAND...: wait at most 30 s.
until_true() {
	local n
	for n in $(seq 300); do
		"$@" && return 0
		sleep 0.1
	done
	echo "it did not come true: $*" >&2
	return 1
}

pack
(cd "$repo" && go build -o "$work/" ./examples/broker ./examples/producer)
own_cache
mkdir "$work/service"
cd "$work/service"
go mod init -q example.com/service 2>/dev/null || go mod init example.com/service 2>/dev/null
first_service >main.go
lines=$(wc -l <main.go)
[ "$lines" -gt 10 ] && [ "$lines" -lt 40 ] || { echo "README's first service has $lines lines"; exit 1; }
go get "$module@$version"
go build -o service .

diff <(links) - <<-LIST || { echo "the service links other modules than it should"; exit 1; }
	$(printf '%s\n' "$module" \
		github.com/klauspost/compress github.com/pierrec/lz4/v4 \
		github.com/twmb/franz-go github.com/twmb/franz-go/pkg/kadm github.com/twmb/franz-go/pkg/kmsg github.com/twmb/franz-go/plugin/kzap \
		go.uber.org/multierr go.uber.org/zap | sort)
LIST

"$work/broker" -port 0 >broker.log &
pids+=($!)
until_true grep -q '^broker on ' broker.log
addr=$(sed -n 's/^broker on \([^ ]*\) .*/\1/p' broker.log)
sed -i "s/localhost:9092/$addr/" main.go
go build -o service .
./service >service.log 2>service.err &
service=$!
pids+=("$service")
HEALTH_ADDR=127.0.0.1:0 KAFKA_BROKERS=$addr "$work/producer" -n 20 2>producer.err >producer.log
handled() { [ "$(grep -c '"number":' service.log)" -ge 20 ]; }
until_true handled
kill -TERM "$service"
wait "$service"
echo "README's first service ($lines lines) was built in a module of its own, and handled $(grep -c '"number":' service.log) records"
