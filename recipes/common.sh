# What every recipe's run.sh shares: its options, the set-up, and a line that says which stage runs.
# A recipe sets its defaults, sources this file, and calls `read_options "$@"` and `set_up`.

say() { printf '%-11s %s\n' "$1" "$2"; }

# Options become variables of the same name; key.sub=value words go to `spkver train`.
read_options() {
    overrides=()
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 0 ;;
            --*)
                local name=${1#--}
                name=${name//-/_}
                [ -n "${!name+known}" ] || { echo "$0: unknown option $1 (see --help)" >&2; exit 2; }
                [ $# -ge 2 ] || { echo "$0: option $1 needs a value" >&2; exit 2; }
                printf -v "$name" %s "$2"
                shift
                ;;
            *=*) overrides+=("$1") ;;
            *) echo "$0: '$1' is neither an option nor key.sub=value (see --help)" >&2; exit 2 ;;
        esac
        shift
    done
}

# set_up EXTRA PACKAGE ...: makes sure that `spkver` with an extra of pyproject.toml ("" for none) can be
# run. An environment that has spkver and the packages is used as it is; otherwise .venv is made, or
# mended when pyproject.toml or a kernel changed.
set_up() {
    local extra=$1 start=$SECONDS
    shift
    local stamp=.venv/spkver-${extra:-core}
    if [ ! -d .venv ] && has_packages spkver "$@"; then return; fi
    PATH=$PWD/.venv/bin:$PATH
    hash -r
    # What an installation is made of: its packages and what is compiled.
    local made_of=(pyproject.toml spkver/native/*.[ch])
    if [ -f "$stamp" ] && cat "${made_of[@]}" | cmp -s - "$stamp"; then return; fi
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        { echo "spkver needs Python 3.10 or newer; name one, as in PYTHON=python3.11 $0" >&2; exit 1; }
    say set-up "making .venv and installing spkver${extra:+[$extra]} with torch into it (about a minute, then never again)"
    [ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
    .venv/bin/python -m pip install -qq --disable-pip-version-check -e ".${extra:+[$extra]}"
    cat "${made_of[@]}" >"$stamp"
    say set-up ".venv holds $(.venv/bin/spkver --version) ($((SECONDS - start)) s; the next start takes a second)"
}

# Looked up from elsewhere, since the folder of this repository looks like an installed package.
has_packages() {
    command -v spkver >/dev/null &&
        (cd / && python3 -c 'import sys; from importlib.metadata import version; [version(n) for n in sys.argv[1:]]' "$@") \
            2>/dev/null
}

# in_stage N TITLE: whether stage N is to be run; says so.
in_stage() {
    [ "$stage" -le "$1" ] && [ "$1" -le "$stop_stage" ] || return 1
    say "stage $1" "$2"
}

# A run that was interrupted goes on; one that is finished stays.
train_or_resume() {
    local resume=()
    [ ! -f "$exp/config.yaml" ] || resume=(--resume)
    spkver train "$config" --data "$data/train" --exp "$exp" ${init:+--init "$init"} \
        ${resume[@]+"${resume[@]}"} ${overrides[@]+"${overrides[@]}"}
}

# score_lists SYSTEM: scores and metrics for each trial list of $data/test that $lists names (trials by default). Where
# LIST.enrolment lies beside a list, what the list enrols are the models of that file, of several utterances each.
score_lists() {
    local list models
    for list in ${lists:-trials}; do
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
    local first=${lists:-trials}
    first=$data/test/${first%% *}
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
