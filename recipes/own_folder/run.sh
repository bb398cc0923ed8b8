#!/usr/bin/env bash
# Own recordings, in any tree in which a folder is a speaker, or a table, or a Kaldi directory: from files to a model,
# its equal error rate, the threshold to deploy it with, and a page to look at.
#
#   recipes/own_folder/run.sh --audio DIR_OR_TABLE [--stage N] [--stop-stage N] [--config FILE] [--exp DIR]
#                             [key.sub=value ...] [--lmf key.sub=value]
#
# Stages: 0 data (what is there, split, trials, a configuration for so much), 1 training, 2 average, 3 embeddings,
# 4 scores and metrics, 5 score normalisation, 6 calibration, 7 large-margin fine-tune (stages 1-6 again), 8 the table,
# thresholds and the page.
# key.sub=value changes the training; --lmf key.sub=value (any number of them) the fine-tune, see README.md.
# Further options: --far RATE (strangers that may be accepted, of stage 8), --data DIR, --lmf-config FILE, --init MODEL
# (fine-tune), and of stage 0, see `spkver prepare folder --help`: --speaker-level N, --genders FILE, --sample-rate HZ,
# --seed N, --test-speakers N, --min-seconds N, --long-seconds N, --segment-seconds N.
# Training, averaging and embedding in several processes: --processes N on this machine, or --torchrun "OPTIONS", see
# docs/distributed.md.

[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/../common.sh"

stage=0 stop_stage=8
audio= exp=exp/own_folder data=data/own_folder config= lmf_config= init= far=
speaker_level= genders= sample_rate= seed= test_speakers= min_seconds= long_seconds= segment_seconds=
read_options "$@"
config=${config:-$data/config.yaml} lmf_config=${lmf_config:-$data/config_lmf.yaml}
if [ "$stage" -le 0 ] && [ -z "$audio" ]; then
    fail "name your recordings by --audio DIR: a folder of speakers' folders, a .csv or .tsv, a Kaldi directory"
fi
set_up vad,pictures silero-vad onnxruntime matplotlib

if in_stage 0 "the recordings in $audio"; then
    prepare=(--configurations conf) # these, also where this recipe is a copy
    for name in speaker_level genders sample_rate seed test_speakers min_seconds long_seconds segment_seconds; do
        [ -z "${!name}" ] || prepare+=("--${name//_/-}" "${!name}")
    done
    spkver prepare folder "$data" --audio "$audio" "${prepare[@]}"
fi
if in_stage 1 "training with $config"; then
    train_or_resume
fi
if in_stage 2 "the final model"; then
    by_all average "$exp"
fi
if in_stage 3 "embeddings of the speakers"; then
    by_all embed "$data/test" "$exp"
    by_all embed "$data/train" "$exp"
    [ -n "$init" ] || by_all embed "$data/test" "$exp" --untrained
fi
if in_stage 4 "scores and metrics"; then
    if [ -z "$init" ]; then
        spkver score "$data/test" "$exp" --untrained
        spkver evaluate "$data/test" "$exp" --untrained
    fi
    spkver score "$data/test" "$exp"
    spkver evaluate "$data/test" "$exp"
fi
back_end_stages 5 6
if in_stage 7 "large-margin fine-tune: stages 1 to 6 with $lmf_config"; then
    fine_tune 6
fi
if in_stage 8 "results"; then
    echo
    spkver results "$exp" "${exp}_lmf"
    echo
    spkver threshold "$data/test" "${exp}_lmf" --system cosine+asnorm+calibration ${far:+--far "$far"}
    echo
    say page "$(spkver report "$exp" "${exp}_lmf" --audio)"
    say_next "spkver verify A.wav B.wav --model ${exp}_lmf/model --threshold T      with one of the thresholds above"
    say "" "spkver threshold $data/test ${exp}_lmf --far RATE --save      or keep one in the model"
fi
