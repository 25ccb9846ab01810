#!/bin/sh
# Runs every fuzz target of the module for FUZZTIME (5s), one after the other:
# go test fuzzes one target of one package at a time.
set -eu
GO=${GO:-go} FUZZTIME=${FUZZTIME:-5s}

list=$(mktemp)
trap 'rm -f "$list"' EXIT
grep -roH --include='*_test.go' --exclude-dir=.git '^func Fuzz[A-Za-z0-9_]*' . |
	sed 's|/[^/]*_test\.go:func | |' | sort -u >"$list"
if [ ! -s "$list" ]; then
	echo "fuzz: there is no fuzz target" >&2
	exit 1
fi
while read -r dir target; do
	echo "$target in $dir, $FUZZTIME"
	"$GO" test -run '^$' -fuzz "^$target\$" -fuzztime "$FUZZTIME" "$dir" </dev/null
done <"$list"
