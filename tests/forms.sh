#!/usr/bin/env bash
# All tests in every form: kernels or torch alone, a CPU that multiplies bfloat16 in hardware or one that does not, one
# torch thread or two. A line a form at the end; the status says whether all of them passed.
#
#   tests/forms.sh [--form "THREADS KERNELS BFLOAT16"]... [--times N] [PYTEST OPTION ...]
#
# Without --form: five forms that have every pair of two settings. The first two alone have each setting once.

set -euo pipefail
cd "$(dirname "$0")/.."

forms=() times=1
while (($#)); do
    case $1 in
        --form) forms+=("$2") && shift ;;
        --times) times=$2 && shift ;;
        *) break ;;
    esac
    shift
done
((${#forms[@]})) || forms=("1 1 0" "2 0 1" "1 0 0" "1 1 1" "2 1 0")

summary=() failed=0
for ((time = 1; time <= times; time++)); do
    for form in "${forms[@]}"; do
        read -r threads kernels bfloat16 <<<"$form"
        title="$threads torch thread(s), kernels $kernels, bfloat16 $bfloat16"
        echo "== $title, time $time of $times"
        start=$SECONDS said=passed
        SPKVER_TEST_THREADS=$threads SPKVER_NATIVE=$kernels SPKVER_TEST_BFLOAT16=$bfloat16 tests/run.sh "$@" ||
            { said=FAILED failed=1; }
        summary+=("$title, time $time: $said in $((SECONDS - start)) s")
    done
done
printf '%s\n' "${summary[@]}"
exit "$failed"
