#!/bin/sh
# Runs every libFuzzer target for some seconds: Tests/Fuzz/run.sh SECONDS_PER_TARGET [TARGET…]
#
# Starts from the inputs in corpus/TARGET; new ones that reach new code gather in inputs/TARGET, which is not committed.
# To take those that add something into the corpus: .build/release/TARGET -merge=1 corpus/TARGET inputs/TARGET
# An input that crashes is left in findings/TARGET, and the exit status is 1: fix it, and keep the input in the corpus.
set -eu

seconds=${1:?usage: run.sh SECONDS_PER_TARGET [TARGET…]}
shift
cd "$(dirname "$0")"

# The backtracer would hold the sanitizer's pipe open.
export SWIFT_BACKTRACE=enable=no

swift build -c release \
    -Xswiftc -sanitize=fuzzer,address -Xcc -fsanitize=fuzzer-no-link,address

status=0
for directory in corpus/*/; do
    target=$(basename "$directory")
    if [ $# -gt 0 ]; then
        case " $* " in *" $target "*) ;; *) continue ;; esac
    fi
    mkdir -p "findings/$target" "inputs/$target"
    echo "== $target for $seconds s"
    dictionary=
    if [ -f "dictionaries/$target" ]; then dictionary="-dict=dictionaries/$target"; fi
    # shellcheck disable=SC2086
    if ! .build/release/"$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="findings/$target/" $dictionary "inputs/$target" "$directory" >"findings/$target/log" 2>&1; then
        status=1
        echo "FAILED: findings/$target holds the input and the log"
        grep -A 12 -m 1 -E "ERROR|Fatal error" "findings/$target/log" || tail -n 40 "findings/$target/log"
    else
        grep -E '^(stat::number_of_executed_units|Done)' "findings/$target/log" || true
    fi
done
exit $status
