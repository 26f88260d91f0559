#!/usr/bin/env bash
# sim.sh SEEDS [FIRST] [-race] [FLAG...]: so many seeds in two processes. Worlds run one
# after the other in each: what they are made of is a clock, and a lock for it.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
seeds=${1:-1000} first=${2:-1}
shift $(($# < 2 ? $# : 2))
race=()
if [ "${1:-}" = -race ]; then
	race=(-race)
	shift
fi
mkdir -p bin
binary=bin/sim${race[*]:-}.test
go test -c "${race[@]}" -tags synctests,sim -o "$binary" ./test/sim || exit 1
half=$(((seeds + 1) / 2)) status=0
# A process at a core: more would only wait for the others' locks.
run() { GOMAXPROCS=1 GOGC=400 "$binary" -test.run '^TestSeeds$' -test.v -test.timeout 0 -seed "$1" -seeds "$2" "${@:3}" 2>&1; }
run "$first" "$half" "$@" >bin/sim.log & one=$!
run $((first + half)) $((seeds - half)) "$@" >bin/sim2.log & two=$!
wait $one || status=1
wait $two || status=1
cat bin/sim.log bin/sim2.log
exit $status
