#!/usr/bin/env bash
# go test with the arguments given, with one more chance for at most three tests that failed: they run again, alone. What fails twice fails.
# A test that passed only then is named at the end, and is a defect to mend: nothing is forgiven silently. There is no second chance
# for a data race, a panic, a leak, a time-out or a package that does not build: they need no bad luck to be real.
# The tests have a temporary directory of their own. When they pass and leave something there, that is a failure too.
set -uo pipefail

flags=() packages=()
for arg in "$@"; do
	if [[ $arg == ./* ]]; then packages+=("$arg"); else flags+=("$arg"); fi
done

log=$(mktemp)
# Its name is short, since tests make sockets below it (a socket's path has at most 107 bytes), and the same each time, since Go tests anew
# what saw another environment. Another run in this checkout has it already: then it is any name.
temporary=${TMPDIR:-/tmp}/t.$(cksum <<<"$PWD" | awk '{ printf "%06x", $1 % 16777216 }')
mkdir "$temporary" 2>/dev/null || temporary=$(mktemp -d -p "${TMPDIR:-/tmp}" t.XXXXXX)
chmod 755 "$temporary" # some tests act as nobody
clean() {
	rm -f "$log"
	# What is mounted there may be a directory of this machine: it must not be emptied.
	if grep -qF " $temporary/" /proc/self/mountinfo; then
		echo "mounts were left in $temporary, which is not removed:"
		grep -F " $temporary/" /proc/self/mountinfo
	else
		rm -rf "$temporary"
	fi
}
trap clean EXIT
trap 'exit 1' INT TERM

# What the tests left. Those who failed may: nobody cleans up after a panic.
left() {
	[[ -n $(ls -A "$temporary") ]] || return 0
	echo "LEFT BEHIND in the temporary directory:"
	(cd "$temporary" && find . -mindepth 1 | sort | head -n 40)
	return 1
}

TMPDIR=$temporary ${GO:-go} test "$@" 2>&1 | tee "$log" | awk '{ if (sub(/^ *--- FAIL/, "first try: &") || sub(/^FAIL/, "first try: &")) ; print; fflush() }'
if [[ ${PIPESTATUS[0]} == 0 ]]; then left; exit; fi

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
left # only said: what failed may have left it
pattern="^($(IFS='|'; echo "${names[*]}"))\$"
if ! TMPDIR=$temporary ${GO:-go} test "${flags[@]}" -count=1 -p 1 -run "$pattern" "${failed[@]}"; then exit 1; fi
echo "FLAKY: passed only at the second try, mend them: ${names[*]}"
