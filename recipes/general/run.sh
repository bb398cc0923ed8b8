#!/usr/bin/env bash
# The model that comes with spkver: 125 people who read sentences and some 1,600 who say words, in noise and rooms, on
# telephones and through codecs. Everything is public and downloaded (3.5 GB) unless it is here.
#
#   recipes/general/run.sh [--speechocean762 DIR] [--speech-commands DIR] [--esc10 DIR] [--stage N] [--stop-stage N]
#                          [--exp DIR] [key.sub=value ...]
#
# Stages: 0 corpora and noises, 1 training, 2 average, 3 further training with made speakers (stages 1 and 2 again with
# conf/general_voices.yaml), 4 large-margin fine-tune (again with conf/general_lmf.yaml); of the model that this gives,
# 5 embeddings, 6 scores and metrics, 7 calibration, 8 test recordings in noise, in rooms, on the telephone and through a
# codec, 9 the table, 10 the folder that comes with spkver (--box DIR), with an ONNX file of 8 bits.
# key.sub=value changes the first training; what holds for all of them, such as data and encoder, the others too; and
# --lmf key.sub=value changes these others alone.
# Further options: --config FILE (of the first training), --data DIR, --downloads DIR, --noise DIR (where ESC-10's list
# is), --init MODEL.
# Training, averaging and embedding in several processes: --processes N on this machine, or --torchrun "OPTIONS", see
# docs/distributed.md.

[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/../common.sh"

stage=0 stop_stage=10
config=conf/general.yaml
lmf_config=conf/general_voices.yaml # on which words of --lmf are tried before anything is trained
exp=exp/general data=data/general downloads=downloads noise=data/esc10 init= box=exp/general_box
speechocean762='' speech_commands='' esc10=''
read_options "$@"
set_up onnx onnx onnxscript onnxruntime
lists="speechocean762 speech_commands"
final=${exp}_lmf

# train_on CONFIG EXP MODEL: stages 1 and 2 with another configuration, from a model.
train_on() {
    choose_fine_tune_overrides
    "$BASH" "$RECIPE" --stage 1 --stop-stage 2 --config "$1" --exp "$2" --init "$3" --data "$data" --noise "$noise" \
        --processes "$processes" ${torchrun:+--torchrun "$torchrun"} ${fine_tune_overrides[@]+"${fine_tune_overrides[@]}"}
}

if in_stage 0 "the corpora"; then
    spkver prepare general "$data" --downloads "$downloads" \
        ${speechocean762:+--speechocean762 "$speechocean762"} ${speech_commands:+--speech-commands "$speech_commands"}
    spkver prepare esc10 "$noise" --downloads "$downloads" ${esc10:+--corpus "$esc10"}
fi
if in_stage 1 "training with $config"; then
    (
        overrides=("augment.noise.list=$noise/noise" ${overrides[@]+"${overrides[@]}"})
        train_or_resume
    )
fi
if in_stage 2 "the final model"; then
    by_all average "$exp"
fi
if in_stage 3 "further training, with made speakers"; then
    train_on conf/general_voices.yaml "${exp}_voices" "$exp/model"
fi
if in_stage 4 "large-margin fine-tune"; then
    train_on conf/general_lmf.yaml "$final" "${exp}_voices/model"
fi
if in_stage 5 "embeddings of the test speakers"; then
    by_all embed "$data/test" "$final"
fi
exp=$final
if in_stage 6 "scores and metrics"; then
    score_lists cosine
fi
if in_stage 7 "calibration on held-out speakers, also of a second and under other conditions"; then
    python3 "$(dirname "$RECIPE")/conditions.py" held-out "$data/train" "$data/calibration" --noise "$noise/noise" --exp "$exp"
    by_all embed "$data/calibration" "$exp"
    spkver calibrate "$data/test" "$exp" --train "$data/calibration" --on "$data/calibration/trials" \
        --trials "$data/test/speechocean762"
    score_lists cosine+calibration
fi
if in_stage 8 "test recordings under other conditions"; then
    python3 "$(dirname "$RECIPE")/conditions.py" test "$data/test" "$data" --noise "$noise/noise" \
        --trials "$data/test/speechocean762"
    for condition in noise room telephone opus; do
        by_all embed "$data/$condition" "$exp"
        for system in cosine cosine+calibration; do
            spkver score "$data/$condition" "$exp" --system "$system"
            spkver evaluate "$data/$condition" "$exp" --system "$system"
        done
    done
fi
if in_stage 9 "results"; then
    echo
    spkver results "$exp"
    echo
fi
if in_stage 10 "the folder that comes with spkver"; then
    python3 "$(dirname "$RECIPE")/box.py" "$exp" "$data/train" "$box"
    say_next "spkver verify A.wav B.wav --model $box" \
        "spkver train conf/own.yaml --data data/own/train --exp exp/own --init $box     your speakers, from there on"
fi
