#!/usr/bin/env bash
# The model that comes with spkver: 125 people who read sentences and some 1,600 who say words, in noise and rooms, on
# telephones and through codecs. Everything is public and downloaded (3.5 GB) unless it is here.
#
#   recipes/general/run.sh [--speechocean762 DIR] [--speech-commands DIR] [--esc10 DIR] [--stage N] [--stop-stage N]
#                          [--exp DIR] [key.sub=value ...] [--lmf key.sub=value]
#
# Stages: 0 corpora and noises, 1 training, 2 average, 3 embeddings, 4 scores and metrics, 5 calibration, 6 large-margin
# fine-tune (stages 1-5 again), 7 the fine-tuned model in noise, in rooms, on the telephone and through a codec, 8 the
# table, 9 the folder that comes with spkver (--box DIR), with an ONNX file of 8 bits.
# key.sub=value changes the training; --lmf key.sub=value (any number of them) the fine-tune, see ../mini/README.md.
# Further options: --config FILE, --lmf-config FILE, --data DIR, --downloads DIR, --noise DIR (where ESC-10's list is),
# --init MODEL (fine-tune).
# Training in several processes: --processes N on this machine, or --torchrun "OPTIONS", see docs/distributed.md.

[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/../common.sh"

stage=0 stop_stage=9
config=conf/general.yaml lmf_config=conf/general_lmf.yaml
exp=exp/general data=data/general downloads=downloads noise=data/esc10 init= box=exp/general_box
speechocean762='' speech_commands='' esc10=''
read_options "$@"
set_up onnx onnx onnxscript onnxruntime
lists="speechocean762 speech_commands"

if in_stage 0 "the corpora"; then
    spkver prepare general "$data" --downloads "$downloads" \
        ${speechocean762:+--speechocean762 "$speechocean762"} ${speech_commands:+--speech-commands "$speech_commands"}
    spkver prepare esc10 "$noise" --downloads "$downloads" ${esc10:+--corpus "$esc10"}
fi
overrides=("augment.noise.list=$noise/noise" ${overrides[@]+"${overrides[@]}"})
if in_stage 1 "training with $config"; then
    train_or_resume
fi
if in_stage 2 "the final model"; then
    spkver average "$exp"
fi
if in_stage 3 "embeddings of the speakers"; then
    spkver embed "$data/test" "$exp"
    spkver embed "$data/train" "$exp"
fi
if in_stage 4 "scores and metrics"; then
    score_lists cosine
fi
if in_stage 5 "calibration"; then
    spkver calibrate "$data/test" "$exp" --train "$data/train" --trials "$data/test/speechocean762"
    score_lists cosine+calibration
fi
if in_stage 6 "large-margin fine-tune: stages 1 to 5 with $lmf_config"; then
    fine_tune 5 --noise "$noise"
fi
if in_stage 7 "test recordings under other conditions"; then
    python3 "$(dirname "$RECIPE")/conditions.py" "$data/test" "$data/test/speechocean762" "$data" --noise "$noise/noise"
    for condition in noise room telephone opus; do
        spkver embed "$data/$condition" "${exp}_lmf"
        spkver score "$data/$condition" "${exp}_lmf"
        spkver evaluate "$data/$condition" "${exp}_lmf"
    done
fi
if in_stage 8 "results"; then
    echo
    spkver results "$exp" "${exp}_lmf"
    echo
fi
if in_stage 9 "the folder that comes with spkver"; then
    python3 "$(dirname "$RECIPE")/box.py" "${exp}_lmf" "$data/train" "$box"
    say_next "spkver verify A.wav B.wav --model $box" \
        "spkver train conf/own.yaml --data data/own/train --exp exp/own --init $box     your speakers, from there on"
fi
