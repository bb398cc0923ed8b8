#!/usr/bin/env bash
# Four short trainings on the built-in corpus for tour.ipynb: a good one, and three that go wrong in one thing each.
#
#   recipes/tour/run.sh [--stage N] [--stop-stage N] [--exp DIR] [--data DIR] [--config FILE] [key.sub=value ...]
#
# Stages: 0 corpus, 1 the good run and its scores, 2 gradients that nothing clips, 3 a margin of 0.5 from the first step,
# 4 one speaker a batch.

[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/../common.sh"

stage=0 stop_stage=4
exp=exp/tour data=data/mini config=recipes/tour/tour.yaml
read_options "$@"
set_up notebook matplotlib plotly ipywidgets

# train NAME [key.sub=value ...]
train() {
    local resume=()
    [ ! -f "$exp/$1/config.yaml" ] || resume=(--resume)
    spkver train "$config" --data "$data/train" --exp "$exp/$1" ${resume[@]+"${resume[@]}"} "${@:2}" \
        ${overrides[@]+"${overrides[@]}"}
}

if in_stage 0 "the built-in corpus"; then
    spkver prepare mini "$data"
fi
if in_stage 1 "a good run"; then
    train good
    spkver average "$exp/good"
    spkver embed "$data/test" "$exp/good"
    spkver score "$data/test" "$exp/good"
fi
if in_stage 2 "gradients that nothing clips"; then
    train no_clipping training.clip_norm=1e9
fi
if in_stage 3 "a margin of 0.5 from the first step"; then
    train margin_from_start margin_schedule.start_epoch=0 margin_schedule.end_epoch=0 head.margin=0.5
fi
if in_stage 4 "one speaker a batch"; then
    train one_speaker batch.speakers=1 batch.utterances=12
fi
