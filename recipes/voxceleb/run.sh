#!/usr/bin/env bash
# VoxCeleb: training on the 5,994 speakers of VoxCeleb2, tests on Vox1-O, E and H. For GPUs; see README.md for its cost.
#
#   recipes/voxceleb/run.sh --corpus DIR [--stage N] [--stop-stage N] [--config FILE] [--exp DIR] [key.sub=value ...]
#                           [--lmf key.sub=value]
#
# Stages: 0 corpus (DIR holds VoxCeleb1 and 2; .m4a is converted by ffmpeg; MUSAN and RIRS_NOISES are downloaded without
# --musan and --rirs), 1 training, 2 average, 3 embeddings, 4 scores and metrics, 5 score normalisation, 6 calibration,
# 7 PLDA, 8 large-margin fine-tune (stages 1-7 again), 9 the table.
# key.sub=value changes the training; --lmf key.sub=value (any number of them) the fine-tune, see ../mini/README.md.
# Further options: --train vox2|vox1+vox2|vox1 and --lists "vox1_O ..." (E and H with vox2 alone), --data DIR, --downloads
# DIR, --converted DIR and --format flac|wav (of converted files), --jobs N, --partial yes (an incomplete copy), --musan
# DIR, --rirs DIR, --musan-lists DIR, --rirs-lists DIR, --lmf-config FILE, --init MODEL (fine-tune), --shards DIR (stage 0
# packs the data into shards there, and all other stages read these).
# Training, averaging and embedding in several processes: --processes N on this machine, or --torchrun "OPTIONS", see
# docs/distributed.md.

[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/../common.sh"

stage=0 stop_stage=9
config=conf/voxceleb.yaml lmf_config=conf/voxceleb_lmf.yaml
exp=exp/voxceleb data=data/voxceleb corpus= downloads=downloads/voxceleb converted= format=flac jobs= partial= init=
train=vox2 lists="vox1_O_cleaned vox1_E_cleaned vox1_H_cleaned vox1_O vox1_E vox1_H"
shards= musan= rirs= musan_lists=data/musan rirs_lists=data/rirs_noises
read_options "$@"
set_up pictures matplotlib

if in_stage 0 "the corpus"; then
    # shellcheck disable=SC2086  # $lists are several words
    spkver prepare voxceleb "$data" --train "$train" --lists $lists --downloads "$downloads" --format "$format" \
        ${corpus:+--corpus "$corpus"} ${converted:+--converted "$converted"} ${jobs:+--jobs "$jobs"} ${partial:+--partial}
    augmentation_lists
    for part in ${shards:+train test}; do
        spkver pack "$data/$part" "$shards/$part"
    done
fi
data=${shards:-$data}
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
