#!/bin/sh
# Runs test programs one after another: run.sh FOLDER TEST... Prints one line a test, the output of those that fail, and a count. Exit 1 when any failed.
# LAUNCHER and RANKS run each under mpiexec. TEST_TIMEOUT: seconds a test may take (default 300).
folder=$1
shift
passed=0
failed=""
output=$(mktemp)
trap 'rm -f "$output"' EXIT
if [ $# = 0 ]; then
    echo "no test to run: a check that checks nothing has failed"
    exit 1
fi
if [ -n "$LAUNCHER" ]; then
    [ "$(id -u)" = 0 ] && export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    launch="$LAUNCHER --oversubscribe --bind-to none -n $RANKS"
fi
for test in "$@"; do
    timeout -k 5 "${TEST_TIMEOUT:-300}" $launch "$folder/$test" >"$output" 2>&1
    code=$?
    if [ $code = 0 ]; then
        passed=$((passed + 1))
        if [ -n "$VERBOSE" ]; then cat "$output"; fi
        echo "ok   $test ($(wc -l <"$output") groups)"
    else
        failed="$failed $test"
        cat "$output"
        if [ $code = 124 ]; then echo "FAIL $test: no answer within ${TEST_TIMEOUT:-300} s"; else echo "FAIL $test: exit code $code"; fi
    fi
done
if [ -n "$failed" ]; then
    echo "$passed passed, failed:$failed"
    exit 1
fi
echo "$passed passed"
