#!/usr/bin/env bash
# go test with the arguments given, with one more chance for at most three tests that failed: they run again, alone. What fails twice fails.
# A test that passed only then is named at the end, and is a defect to mend: nothing is forgiven silently. There is no second chance
# for a data race, a panic, a leak, a time-out or a package that does not build: they need no bad luck to be real.
set -uo pipefail

flags=() packages=()
for arg in "$@"; do
	if [[ $arg == ./* ]]; then packages+=("$arg"); else flags+=("$arg"); fi
done

log=$(mktemp)
trap 'rm -f "$log"' EXIT
${GO:-go} test "$@" 2>&1 | tee "$log" | awk '{ if (sub(/^ *--- FAIL/, "first try: &") || sub(/^FAIL/, "first try: &")) ; print; fflush() }'
if [[ ${PIPESTATUS[0]} == 0 ]]; then exit 0; fi

mapfile -t names < <(sed -nE 's/^--- FAIL: ([^ /]+).*/\1/p' "$log" | sort -u)
mapfile -t failed < <(sed -nE 's/^FAIL\t([^ \t]+).*/\1/p' "$log" | sort -u)
unlucky='^panic: |^fatal error: |DATA RACE|race detected outside|goleak|found unexpected goroutines|\[(build|setup) failed\]|test timed out'
if ((${#names[@]} == 0 || ${#names[@]} > 3)) || grep -qE "$unlucky" "$log"; then
	# What CI keeps of a run is its end: the reason has to be there.
	echo "no second chance, since:"
	if ! grep -E -m 1 -A 60 "$unlucky" "$log"; then
		for package in "${failed[@]}"; do grep -E -B 60 "^FAIL	$package[[:space:]]" "$log"; done
	fi
	grep -E '^ *--- FAIL|^FAIL' "$log"
	exit 1
fi

echo "failed, and tried once more alone: ${names[*]} (${failed[*]})"
pattern="^($(IFS='|'; echo "${names[*]}"))\$"
if ! ${GO:-go} test "${flags[@]}" -count=1 -p 1 -run "$pattern" "${failed[@]}"; then exit 1; fi
echo "FLAKY: passed only at the second try, mend them: ${names[*]}"
