#!/usr/bin/env bash
# The package as a pip user has it: the source distribution, a wheel made of it without a compiler, and an environment
# outside the checkout, in which a configuration is found by its name and a copied recipe runs.
#
#   tests/package.sh [--clean] [--tests]
#
# --clean   installs every dependency anew, instead of taking those of the environment that this is started in
# --tests   runs all tests of the unpacked source distribution, too
# PYTHON=python3.13 chooses another Python for the environment (with --clean).

set -euo pipefail
cd "$(dirname "$0")/.."
checkout=$PWD
. recipes/common.sh
set_up test build espeakng-loader matplotlib
clean= tests=
for word in "$@"; do
    case $word in
        --clean) clean=yes ;;
        --tests) tests=yes ;;
        *) fail "unknown option $word" ;;
    esac
done
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say build "the source distribution, and a wheel of it"
python -m build --sdist --outdir "$work/dist" . >"$work/build.log" 2>&1 || { tail -20 "$work/build.log"; exit 1; }
"${PYTHON:-python}" -m venv "$work/env"
CC=/bin/false "$work/env/bin/pip" wheel -q --disable-pip-version-check --no-deps -w "$work/dist" "$work"/dist/*.tar.gz
wheel=$(ls "$work"/dist/*.whl)

say install "$(basename "$wheel")"
if [ -n "$clean" ]; then
    "$work/env/bin/pip" install -q --disable-pip-version-check "$wheel[mini]"
else
    "$work/env/bin/pip" install -q --disable-pip-version-check --no-deps "$wheel"
    python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
        >"$("$work/env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/dependencies.pth"
fi
export PATH=$work/env/bin:$PATH
hash -r
mkdir "$work/elsewhere"
cd "$work/elsewhere"
[ "$(python -c 'import spkver; print(spkver.__file__)')" = "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/spkver/__init__.py" ]

say run "configurations by name, and a copied recipe"
spkver config --list | grep '^mini ' >/dev/null
printf 'base: [mini.yaml, lmf.yaml]\nseed: 3\n' >mine.yaml
spkver config mine.yaml | grep -x 'seed: 3' >/dev/null
spkver recipe mini .
short=(training.epochs=1 training.average_last=1 batch.speakers=8 data.held_out_speakers=4 model.n_layers=1
    margin_schedule.start_epoch=0 margin_schedule.end_epoch=1 lr_schedule.warmup_epochs=0 scoring.norm.top_n=4)
recipes/mini/run.sh --train-voices 12 --test-voices 4 --sentences 4 --stop-stage 4 "${short[@]}"
spkver train mini --data data/mini/train --exp exp/by_name "${short[@]}"
recordings=(data/mini/test/wav/*/*-01.wav)
spkver verify "${recordings[@]:0:2}" --model exp/mini/model || [ $? = 3 ] # 3: different speakers
spkver report exp/mini
if grep -rn "$work" --include=config*.yaml exp data conf; then fail "a stored configuration holds an absolute path"; fi

if [ -n "$tests" ]; then
    say tests "of the source distribution"
    tar xzf "$work"/dist/*.tar.gz -C "$work"
    cd "$work"/spkver-*/
    PATH=${PATH#"$work/env/bin:"} tests/run.sh
fi
say package "$(basename "$wheel") works"
