#!/usr/bin/env bash
# LibriSpeech: training on train-clean-100 (251 speakers) or any subsets, trials of test-clean and test-other by a seed.
#
#   recipes/librispeech/run.sh [--corpus DIR] [--stage N] [--stop-stage N] [--config FILE] [--exp DIR] [key.sub=value ...]
#                              [--lmf key.sub=value]
#   recipes/librispeech/run.sh --train train-clean-5 --test dev-clean-2 ...         Mini LibriSpeech (0.5 GB)
#
# Stages: 0 corpus (downloaded without --corpus), 1 training, 2 average, 3 embeddings, 4 scores and metrics, 5 score
# normalisation, 6 calibration, 7 PLDA, 8 large-margin fine-tune (stages 1-7 again), 9 the table.
# key.sub=value changes the training; --lmf key.sub=value (any number of them) the fine-tune, see ../mini/README.md.
# Further options: --train "SUBSET ..." --test "SUBSET ...", --seed N, --targets N, --nontargets N (of each trial list),
# --data DIR, --downloads DIR, --partial yes (an incomplete copy), --lmf-config FILE, --init MODEL (fine-tune).
# Training, averaging and embedding in several processes: --processes N on this machine, or --torchrun "OPTIONS", see
# docs/distributed.md.

[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/../common.sh"

stage=0 stop_stage=9
config=conf/librispeech.yaml lmf_config=conf/librispeech_lmf.yaml
exp=exp/librispeech data=data/librispeech corpus= downloads=downloads/librispeech partial= init=
train=train-clean-100 test="test-clean test-other" seed=12 targets=20000 nontargets=100000
read_options "$@"
set_up pictures matplotlib
lists=$test

if in_stage 0 "the corpus"; then
    # shellcheck disable=SC2086  # subsets are several words
    spkver prepare librispeech "$data" --train $train --test $test --seed "$seed" --targets "$targets" \
        --nontargets "$nontargets" --downloads "$downloads" ${corpus:+--corpus "$corpus"} ${partial:+--partial}
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
fi
if in_stage 4 "scores and metrics"; then
    score_lists cosine
fi
back_end_stages 5 6 7
if in_stage 8 "large-margin fine-tune: stages 1 to 7 with $lmf_config"; then
    fine_tune 7 --test "$test"
fi
if in_stage 9 "results"; then
    echo
    spkver results "$exp" "${exp}_lmf"
fi
