#!/usr/bin/env bash
# The built-in corpus, from nothing to an equal error rate: voices spoken on the spot, training,
# averaging, embeddings, scores, a large-margin fine-tune, and a table.
#
#   recipes/mini/run.sh [--stage N] [--stop-stage N] [--config FILE] [--exp DIR] [key.sub=value ...] [--lmf key.sub=value]
#
# Stages: 0 corpus, 1 training, 2 average, 3 embeddings, 4 scores and metrics, 5 score normalisation,
# 6 calibration, 7 PLDA, 8 large-margin fine-tune (stages 1-7 again, with --lmf-config), 9 the table.
# key.sub=value changes the training; --lmf key.sub=value (any number of them) the fine-tune, see README.md.
# Further options: --lmf-config FILE, --data DIR, --init MODEL (fine-tune), --train-voices N,
# --test-voices N, --sentences N (of the corpus).
# Training, averaging and embedding in several processes: --processes N on this machine, or --torchrun "OPTIONS", see
# docs/distributed.md.

[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/../common.sh"

stage=0 stop_stage=9
config=conf/mini.yaml lmf_config=conf/mini_lmf.yaml
exp=exp/mini data=data/mini init=
train_voices=64 test_voices=24 sentences=12
read_options "$@"
set_up mini espeakng-loader matplotlib

if in_stage 0 "the built-in corpus"; then
    spkver prepare mini "$data" --train-voices "$train_voices" --test-voices "$test_voices" --sentences "$sentences"
fi
if in_stage 1 "training with $config"; then
    train_or_resume
fi
if in_stage 2 "the final model"; then
    by_all average "$exp"
fi
if in_stage 3 "embeddings of the voices"; then
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
if in_stage 9 "results"; then
    echo
    spkver results "$exp" "${exp}_lmf"
    echo
    say_next "spkver report $exp ${exp}_lmf                                         look at it: one page, opens from disk" \
        "spkver verify A.wav B.wav --model ${exp}_lmf/model" \
        "recipes/mini/run.sh --stage 1 --exp exp/one_thing batch.speakers=16      change one thing" \
        "recipes/speechocean762/run.sh                                            real speech"
fi
