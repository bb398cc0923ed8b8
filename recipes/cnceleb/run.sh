#!/usr/bin/env bash
# CN-Celeb: training on 2,793 Chinese speakers in eleven genres, 196 models enrolled from several recordings each.
#
#   recipes/cnceleb/run.sh [--corpus DIR] [--stage N] [--stop-stage N] [--config FILE] [--exp DIR] [key.sub=value ...]
#                          [--lmf key.sub=value]
#
# Stages: 0 corpus (downloaded without --corpus, as MUSAN and RIRS_NOISES without --musan and --rirs), 1 training,
# 2 average, 3 embeddings, 4 scores and metrics, 5 score normalisation, 6 calibration, 7 PLDA, 8 large-margin fine-tune
# (stages 1-7 again), 9 the table: enrolment from one joined recording, and from several by their mean embedding.
# key.sub=value changes the training; --lmf key.sub=value (any number of them) the fine-tune, see ../mini/README.md.
# Further options: --train cn1+cn2|cn1|cn2, --lists "eval_concatenated eval_several", --data DIR, --downloads DIR,
# --partial yes (an incomplete copy), --musan DIR, --rirs DIR, --musan-lists DIR, --rirs-lists DIR, --lmf-config FILE,
# --init MODEL (fine-tune).
# Training, averaging and embedding in several processes: --processes N on this machine, or --torchrun "OPTIONS", see
# docs/distributed.md.

[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/../common.sh"

stage=0 stop_stage=9
config=conf/cnceleb.yaml lmf_config=conf/cnceleb_lmf.yaml
exp=exp/cnceleb data=data/cnceleb corpus= downloads=downloads/cnceleb partial= init=
train=cn1+cn2 lists="eval_concatenated eval_several"
musan= rirs= musan_lists=data/musan rirs_lists=data/rirs_noises
read_options "$@"
set_up pictures matplotlib

if in_stage 0 "the corpus"; then
    spkver prepare cnceleb "$data" --train "$train" --downloads "$downloads" ${corpus:+--corpus "$corpus"} \
        ${partial:+--partial}
    augmentation_lists
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
    fine_tune 7 --lists "$lists"
fi
if in_stage 9 "results"; then
    echo
    spkver results "$exp" "${exp}_lmf"
fi
