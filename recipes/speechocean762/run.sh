#!/usr/bin/env bash
# speechocean762 (OpenSLR 101): real recordings, 125 training and 125 test speakers. Two heads, ArcMargin
# and sub-center inter-topk, each trained and then fine-tuned with a large margin.
#
#   recipes/speechocean762/run.sh [--corpus DIR] [--stage N] [--stop-stage N] [--config FILE] [--exp DIR]
#                                 [key.sub=value ...] [--lmf key.sub=value]
#
# Stages: 0 corpus (downloaded without --corpus), 1 training, 2 average, 3 embeddings, 4 scores and
# metrics, 5 score normalisation, 6 calibration, 7 PLDA, 8 large-margin fine-tune (stages 1-7 again), 9 the
# other head (stages 1-8 again), 10 the table.
# key.sub=value changes the trainings; --lmf key.sub=value (any number of them) the fine-tunes, see ../mini/README.md.
# Further options: --data DIR, --downloads DIR, --checksum SUM (of the archive), --lmf-config FILE, --init MODEL (fine-tune),
# --other-config FILE, --other-lmf-config FILE (stage 9; an empty --other-config leaves it out).
# Training, averaging and embedding in several processes: --processes N on this machine, or --torchrun "OPTIONS", see
# docs/distributed.md.

[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/../common.sh"

stage=0 stop_stage=10
config=conf/speechocean762.yaml lmf_config=conf/speechocean762_lmf.yaml
other_config=conf/speechocean762_intertopk.yaml other_lmf_config=conf/speechocean762_intertopk_lmf.yaml
exp=exp/speechocean762 data=data/speechocean762 corpus= downloads=downloads checksum= init=
read_options "$@"
set_up pictures matplotlib

if in_stage 0 "the corpus"; then
    spkver prepare speechocean762 "$data" --downloads "$downloads" ${corpus:+--corpus "$corpus"} \
        ${checksum:+--checksum "$checksum"}
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
back_end_stages 5 6 7
if in_stage 8 "large-margin fine-tune: stages 1 to 7 with $lmf_config"; then
    fine_tune 7
fi
if [ -n "$other_config" ] && in_stage 9 "the other head: stages 1 to 8 with $other_config"; then
    lmf=()
    for override in ${lmf_overrides[@]+"${lmf_overrides[@]}"}; do lmf+=(--lmf "$override"); done
    "$BASH" "$RECIPE" --stage 1 --stop-stage 8 --config "$other_config" --lmf-config "$other_lmf_config" \
        --exp "${exp}_intertopk" --data "$data" --processes "$processes" ${torchrun:+--torchrun "$torchrun"} \
        ${overrides[@]+"${overrides[@]}"} ${lmf[@]+"${lmf[@]}"}
fi
if in_stage 10 "results"; then
    echo
    spkver results "$exp" "${exp}_lmf" ${other_config:+"${exp}_intertopk" "${exp}_intertopk_lmf"}
    echo
    say_next "spkver report $exp ${exp}_lmf --audio      look at it: one page, opens from disk"
fi
