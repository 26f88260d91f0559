#!/usr/bin/env bash
# `make rename` in a copy: it builds and passes its tests under another path.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
old=$(go list -m)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git clone -q . "$copy"
cd "$copy"
make -s rename MODULE=example.com/x
! git grep -n "$old" -- ':!*.sum' || { echo "names of $old are left"; exit 1; }
go vet -tags synctests ./...
go test ./...
