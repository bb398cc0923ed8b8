# What every recipe's run.sh shares: where it stands, its options, the set-up, and a line that says which stage runs.
# A recipe sources this file, sets its defaults, and calls `read_options "$@"` and `set_up`. From here on it stands in the
# repository, wherever it was started, so its own paths are relative to that.

unset CDPATH # with it, `cd` prints where it went, and may go elsewhere
RECIPE=$(readlink -f "$0")
ROOT=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
CALLER=$PWD
cd "$ROOT"
if [ "$CALLER" -ef . ]; then CALLER=; fi # the same place: paths stay as short as they were given

# What is a path among the options, and among the keys of key.sub=value. A relative one is the caller's.
PATH_OPTIONS="audio box config converted corpus data downloads esc10 exp genders init lmf_config mnist musan musan_lists \
    noise other_config other_lmf_config rirs rirs_lists shards speech_commands speechocean762"
PATH_KEYS="augment.noise.list augment.reverb.list"

lists=trials # of $data/test that are scored
processes=1 torchrun= # that train

say() { printf '%-11s %s\n' "$1" "$2"; }

# say_next COMMAND ...: what to do next, in commands that are right where the caller stands.
say_next() {
    local word=next command
    [ -z "$CALLER" ] || set -- "cd '$ROOT'" "$@"
    for command in "$@"; do
        say "$word" "$command"
        word=
    done
}

fail() { echo "$0: $1" >&2; exit 2; }

# The comment at the head of the recipe. An option is what it names.
usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$RECIPE"; }

# Options become variables of the same name. key.sub=value words go to `spkver train`, those of --lmf to the large-margin
# fine-tune's.
read_options() {
    local help option name value
    help=$(usage)
    overrides=() lmf_overrides=()
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help) echo "$help"; exit 0 ;;
            --*)
                option=${1%%=*}
                [[ $option =~ ^--[a-z0-9-]+$ && $help =~ (^|[^a-z0-9-])$option([^a-z0-9-]|$) ]] ||
                    fail "unknown option $option (see --help)"
                if [ "$option" = "$1" ]; then
                    [ $# -ge 2 ] || fail "option $1 needs a value"
                    value=$2
                    shift
                else
                    value=${1#*=}
                fi
                name=${option#--}
                read_option "${name//-/_}" "$value"
                ;;
            *=*) overrides+=("$(override_from_caller "$1")") ;;
            *) fail "'$1' is neither an option nor key.sub=value (see --help)" ;;
        esac
        shift
    done
    [ "$stage" -le "$stop_stage" ] || fail "--stage $stage comes after the last one, $stop_stage"
}

read_option() {
    case $1 in
        stage | stop_stage)
            [[ $2 =~ ^[0-9]{1,3}$ ]] || fail "option --${1/_/-} needs the number of a stage, not '$2' (see --help)"
            ;;
        processes) [[ $2 =~ ^[1-9][0-9]{0,4}$ ]] || fail "option --processes needs their number, not '$2' (see --help)" ;;
        partial) [ "$2" = yes ] || fail "option --partial takes yes alone, not '$2' (see --help)" ;;
        lmf)
            [[ $2 == *=* ]] || fail "option --lmf needs key.sub=value, not '$2' (see --help)"
            lmf_overrides+=("$(override_from_caller "$2")")
            return
            ;;
    esac
    if in_words "$1" "$PATH_OPTIONS"; then
        printf -v "$1" %s "$(from_caller "$2")"
    else
        printf -v "$1" %s "$2"
    fi
}

# from_caller PATH: the path as it is right from the repository.
from_caller() {
    local path=$1
    case $path in
        "" | / | /*) ;;
        *) path=${CALLER:+$CALLER/}$path ;;
    esac
    # Names are made of it, such as ${exp}_lmf: it must end in one.
    case $path in . | .. | */. | */..) [ ! -d "$path" ] || path=$(cd "$path" && pwd) ;; esac
    while [ "${#path}" -gt 1 ] && [ "${path%/}" != "$path" ]; do path=${path%/}; done
    printf %s "$path"
}

# override_from_caller KEY=VALUE: the same with a path as it is right from the repository.
override_from_caller() {
    local key=${1%%=*} value=${1#*=}
    if in_words "$key" "$PATH_KEYS" && [ "$value" != null ]; then value=$(from_caller "$value"); fi
    printf %s "$key=$value"
}

# in_words WORD "WORD ..."
in_words() { [[ " $2 " == *" $1 "* ]]; }

# set_up EXTRA PACKAGE ...: makes sure that `spkver` with an extra of pyproject.toml ("" for none) can be run, and that it
# is the one of this checkout. An environment that has spkver and the packages is used as it is; otherwise .venv is made,
# or mended when pyproject.toml or a kernel changed, or the checkout moved. A copy that `spkver recipe` made runs with the
# spkver that is installed.
set_up() {
    local extra=$1 start=$SECONDS
    shift
    if [ ! -d spkver ]; then
        has_packages spkver "$@" ||
            fail "spkver${*:+, $*} must be installed where 'spkver' is found; activate that environment, or pip install $*"
        return
    fi
    if [ -d .venv ] || ! has_packages spkver "$@"; then
        PATH=$PWD/.venv/bin:$PATH
        hash -r
        make_environment "$extra"
    fi
    run_this_checkout
}

make_environment() {
    local extra=$1 stamp=.venv/spkver-${1:-core}
    # A command names the place of its Python: it tells an environment that was copied or moved with the checkout.
    if grep -qsF "$PWD/.venv/bin/" .venv/bin/spkver && made_of | cmp -s - "$stamp"; then return; fi
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        { echo "spkver needs Python 3.10 or newer; name one, as in PYTHON=python3.11 $0" >&2; exit 1; }
    say set-up "making .venv and installing spkver${extra:+[$extra]} with torch into it (about a minute, then never again)"
    [ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
    .venv/bin/python -m pip install -qq --disable-pip-version-check -e ".${extra:+[$extra]}"
    made_of >"$stamp"
    say set-up ".venv holds $(.venv/bin/spkver --version) ($((SECONDS - start)) s; the next start takes a second)"
}

# What an installation is made of: its packages and what is compiled.
made_of() { cat pyproject.toml spkver/native/*.[ch]; }

# Looked up from elsewhere, since the folder of this repository looks like an installed package.
has_packages() {
    command -v spkver >/dev/null &&
        (cd / && python3 -c 'import sys; from importlib.metadata import version; [version(n) for n in sys.argv[1:]]' "$@") \
            2>/dev/null
}

# The environment's spkver may be a release, or of another clone or worktree: the code of this checkout comes first.
run_this_checkout() {
    local installed
    installed=$(cd / && python3 -c 'from importlib.util import find_spec; print(find_spec("spkver").origin)' 2>/dev/null) ||
        installed=
    installed=${installed%/__init__.py}
    export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
    [ -n "$installed" ] && ! [ "$installed" -ef spkver ] || return 0
    say set-up "the code of $PWD runs, not what is installed here ($installed)"
    [ -n "$(ls spkver/native/_kernels*.so 2>/dev/null)" ] ||
        say "" "its kernels are not compiled, so it is slower: 'python3 -m pip install -e $PWD' compiles them"
}

# in_stage N TITLE: whether stage N is to be run; says so.
in_stage() {
    [ "$stage" -le "$1" ] && [ "$1" -le "$stop_stage" ] || return 1
    say "stage $1" "$2"
}

# A run that was interrupted goes on; one that is finished stays.
train_or_resume() {
    local resume=()
    if [ ${#lmf_overrides[@]} -gt 0 ]; then # a mistake in them is reported now, not after hours
        choose_fine_tune_overrides
        spkver config "$lmf_config" "${fine_tune_overrides[@]}" >/dev/null
    fi
    [ ! -f "$exp/config.yaml" ] || resume=(--resume)
    by_all train "$config" --data "$data/train" --exp "$exp" ${init:+--init "$init"} \
        ${resume[@]+"${resume[@]}"} ${overrides[@]+"${overrides[@]}"}
}

# by_all VERB WORD ...: `spkver VERB`, in so many processes of this machine as --processes says, or as the options of
# --torchrun do: "--nnodes 2 --nproc-per-node 8 --rdzv-endpoint HOST:29500", given on each of the machines.
by_all() {
    local how
    if [ "$processes" = 1 ] && [ -z "$torchrun" ]; then
        spkver "$@"
    else
        read -ra how <<<"${torchrun:---standalone --nproc-per-node $processes}"
        # As many threads as torchrun gives without it, and then says so at length.
        OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} python3 -m torch.distributed.run "${how[@]}" -m spkver "$@"
    fi
}

# fine_tune LAST_STAGE [OPTION VALUE ...]: stages 1 to LAST_STAGE with $lmf_config, from the model of $exp, for ${exp}_lmf.
# By $BASH, since the recipe's file need not be executable.
fine_tune() {
    choose_fine_tune_overrides
    "$BASH" "$RECIPE" --stage 1 --stop-stage "$1" --config "$lmf_config" --exp "${exp}_lmf" --data "$data" \
        --init "$exp/model" --processes "$processes" ${torchrun:+--torchrun "$torchrun"} "${@:2}" \
        ${fine_tune_overrides[@]+"${fine_tune_overrides[@]}"}
}

# What was given for the training and holds for the fine-tune as well, which is data, encoder, machine and scoring; then
# what --lmf gives.
choose_fine_tune_overrides() {
    local override
    fine_tune_overrides=()
    for override in ${overrides[@]+"${overrides[@]}"}; do
        how_it_trains "${override%%=*}" || fine_tune_overrides+=("$override")
    done
    fine_tune_overrides+=(${lmf_overrides[@]+"${lmf_overrides[@]}"})
}

# how_it_trains KEY: whether a key says how one training goes. The files conf/*_lmf.yaml have values of their own for these.
how_it_trains() {
    case $1 in
        data | data.crop_seconds | batch | batch.* | augment | augment.speed_factors | augment.formant_factors) ;;
        model.*drop* | head | head.margin | head.mp | head.k_top | head.do_lm | init | init.*) ;;
        optimizer | optimizer.* | lr_schedule | lr_schedule.* | margin_schedule | margin_schedule.*) ;;
        training | training.epochs | training.clip_norm | training.sampled_share) ;;
        training.keep_last | training.average_last) ;;
        *) return 1 ;;
    esac
}

# score_lists SYSTEM: scores and metrics for each trial list of $data/test that $lists names. Where LIST.enrolment lies
# beside a list, what the list enrols are the models of that file, of several utterances each.
score_lists() {
    local list models
    for list in $lists; do
        models=$data/test/$list.enrolment
        [ -f "$models" ] || models=
        spkver score "$data/test" "$exp" --trials "$data/test/$list" --system "$1" ${models:+--enrolment "$models"}
        spkver evaluate "$data/test" "$exp" --trials "$data/test/$list" --system "$1"
    done
}

# augmentation_lists: lists of MUSAN and RIRS_NOISES in $musan_lists and $rirs_lists, unless they are there; of the copies
# $musan and $rirs where these are given.
augmentation_lists() {
    [ -f "$musan_lists/noise_and_music" ] || spkver prepare musan "$musan_lists" --downloads "$downloads" \
        ${musan:+--corpus "$musan"} ${partial:+--partial}
    [ -f "$rirs_lists/simulated_rirs" ] || spkver prepare rirs_noises "$rirs_lists" --downloads "$downloads" \
        ${rirs:+--corpus "$rirs"} ${partial:+--partial}
}

# back_end_stages NORM CALIBRATION [PLDA]: the stages of these numbers, for $exp on the speakers of $data.
back_end_stages() {
    local first=$data/test/${lists%% *}
    if in_stage "$1" "score normalisation"; then
        spkver norm "$data/test" "$exp" --train "$data/train" --trials "$first"
        score_lists cosine+asnorm
    fi
    if in_stage "$2" "calibration"; then
        spkver calibrate "$data/test" "$exp" --train "$data/train" --trials "$first" --system cosine+asnorm
        score_lists cosine+asnorm+calibration
    fi
    if [ $# -ge 3 ] && in_stage "$3" "PLDA"; then
        spkver plda "$data/test" "$exp" --train "$data/train" --trials "$first"
        score_lists plda
    fi
}
