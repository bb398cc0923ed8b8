#!/usr/bin/env bash
# Speed and memory, beside the usual ways: a table for each subject.
#
#   recipes/benchmark/run.sh [SUBJECT] [key=value ...]
#
# Subjects: scoring (the default), heads (margin heads of up to a million classes), training (EER over minutes of
# SpeechEncoderV3 and its peers; half an hour a row), variants (what those of a configuration bring on held-out speakers,
# with several seeds; some minutes a run; `variants recipes/benchmark/fine_tunes.yaml`: those of a fine-tune). Sizes
# stand in recipes/benchmark/SUBJECT.yaml; key=value words change them. Run it on an idle machine: another job beside it
# slows rows differently.

set -euo pipefail
cd "$(dirname "$0")/../.."
. recipes/common.sh

case ${1:-scoring} in
    -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *=*) subject=scoring ;;
    *) subject=${1:-scoring}; shift $(($# > 0)) ;;
esac
[ -f "recipes/benchmark/$subject.py" ] || { echo "$0: no subject '$subject' (see --help)" >&2; exit 2; }
set_up ""
python "recipes/benchmark/$subject.py" "$@"
