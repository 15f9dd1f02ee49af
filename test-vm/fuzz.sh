#!/bin/sh
# Builds and runs the fuzz targets of all crates: fuzz.sh [SECONDS of each [TARGET...]].
# Needs a nightly toolchain and `cargo install cargo-fuzz`. Inputs that are found go to
# $HAWKER_FUZZ_DIR (/tmp/hawker-fuzz): what crashes into artifacts/, with the command to repeat it
# in the log of the target; what reaches new code into corpus/. Ends with 1 if anything was found.
set -u
seconds=${1:-60}
[ $# -gt 0 ] && shift
cd "$(dirname "$0")/.." || exit 2
found=${HAWKER_FUZZ_DIR:-/tmp/hawker-fuzz}
status=0
for crate in p2p plugin snapshotter; do
    cd "$crate" || exit 2
    for target in $(cargo +nightly fuzz list); do
        if [ $# -gt 0 ]; then
            case " $* " in *" $target "*) ;; *) continue ;; esac
        fi
        mkdir -p "$found/corpus/$crate/$target" "$found/artifacts/$crate/$target"
        log=$found/$crate-$target.log
        cargo +nightly fuzz run -O "$target" "$found/corpus/$crate/$target" "fuzz/corpus/$target" -- \
            -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
            -artifact_prefix="$found/artifacts/$crate/$target/" >"$log" 2>&1
        if [ $? -eq 0 ]; then said=sound; else said="FAILED, see $log"; status=1; fi
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        covered=$(grep -o ' cov: [0-9]*' "$log" | tail -1)
        echo "$crate $target: $said, ${runs:-no} runs,${covered:- no coverage told}"
    done
    cd .. || exit 2
done
exit $status
