#!/usr/bin/env bash
# All tests in every form: kernels or torch alone, a CPU that multiplies bfloat16 in hardware or one that does not, one
# torch thread or two. Words are passed to pytest. A line a form at the end; the status says whether all of them passed.
#
#   tests/forms.sh [PYTEST OPTION ...]

set -euo pipefail
cd "$(dirname "$0")/.."

summary=() failed=0
for threads in 1 2; do
    for kernels in 1 0; do
        for bfloat16 in 0 1; do
            # Processes and threads together are as many as before.
            words=(-n "$((2 / threads))" "$@")
            form="threads $threads, kernels $kernels, bfloat16 $bfloat16"
            echo "== $form"
            start=$SECONDS said=passed
            SPKVER_TEST_THREADS=$threads SPKVER_NATIVE=$kernels SPKVER_TEST_BFLOAT16=$bfloat16 \
                tests/run.sh "${words[@]}" || { said=FAILED; failed=1; }
            summary+=("$form: $said in $((SECONDS - start)) s")
        done
    done
done
printf '%s\n' "${summary[@]}"
exit "$failed"
