#!/usr/bin/env bash
# Speed and memory, beside the usual ways: a table for each subject.
#
#   recipes/benchmark/run.sh [SUBJECT] [key=value ...]
#
# Subjects: scoring (the default), heads (margin heads of up to a million classes), training (EER over minutes of
# SpeechEncoderV3 and its peers; half an hour a row), variants (what those of a configuration bring on held-out speakers,
# with several seeds; some minutes a run; `variants recipes/benchmark/fine_tunes.yaml`: those of a fine-tune), kernels (what
# each of them brings), gpu (one GPU: its tests, trainings, encoders beside their peers, heads, extraction), table (a
# million utterances: seconds to the first batch, memory, a step of the sampler), batches (whether memory grows from
# batch to batch), scale (training in several processes, and on two "machines" with a link of 1 Gbit/s). Sizes stand in recipes/benchmark/SUBJECT.yaml; key=value words change them. Run it on an idle machine: another job beside it
# slows rows differently.

[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/../common.sh"

PATH_KEYS="ages config corpus init out"
case ${1:-scoring} in
    -h | --help) usage; exit 0 ;;
    *=*) subject=scoring ;;
    *) subject=${1:-scoring}; shift $(($# > 0)) ;;
esac
[ -f "recipes/benchmark/$subject.py" ] || fail "no subject '$subject' (see --help)"
words=()
for word in "$@"; do
    case $word in
        -h | --help) usage; exit 0 ;;
        -*) words+=("$word") ;;
        *=*) words+=("$(override_from_caller "$word")") ;;
        *) words+=("$(from_caller "$word")") ;;
    esac
done
set_up pictures matplotlib
python3 "recipes/benchmark/$subject.py" ${words[@]+"${words[@]}"}
