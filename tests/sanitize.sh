#!/usr/bin/env bash
# The kernels under AddressSanitizer and UndefinedBehaviorSanitizer: compiled into a folder of their own, and their
# tests run with them. The first read or write beside a tensor, overflow or wrong shift stops the run and is named.
#
#   tests/sanitize.sh [PYTEST OPTION ...]

set -euo pipefail
cd "$(dirname "$0")/.."
. recipes/common.sh
set_up test pytest pytest-xdist hypothesis torchaudio

compiler=${CC:-gcc}
libraries=$("$compiler" -print-file-name=libasan.so 2>/dev/null):$("$compiler" -print-file-name=libubsan.so 2>/dev/null)
case $libraries in
    /*:/*) ;;
    *)
        echo "$0: $compiler has no libasan and libubsan; install them, or name another compiler as in CC=gcc-14 $0" >&2
        # Left out on a machine of one's own; where it is to be checked, that is a failure.
        exit "$([ -n "${CI:-}" ] && echo 1 || echo 0)"
        ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# A copy, so that neither the kernels in use nor the installed package are touched.
copy=$work/copy
mkdir "$copy"
cp -r spkver conf tests pyproject.toml "$copy"
rm -f "$copy"/spkver/native/_kernels*
[ ! -d ../shared ] || ln -s "$(cd ../shared && pwd)" "$work/shared"
mapfile -t python_says < <(python -c 'import sysconfig as s; print(s.get_path("include"), s.get_config_var("EXT_SUFFIX"), sep="\n")')
strict=(-g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all)
compile() { "$compiler" -shared -fPIC -fopenmp "${strict[@]}" "$@"; }
compile -fno-math-errno -fno-trapping-math -I"${python_says[0]}" -o "$copy/spkver/native/_kernels${python_says[1]}" \
    spkver/native/*.c
echo 'float behind(const float *x, long n) { return x[n]; }' >"$work/planted.c"
compile -o "$work/planted.so" "$work/planted.c"

export LD_PRELOAD=${libraries/:/ }
# Python and torch keep memory to the end on purpose, and CUDA's libraries want the gap in the address space.
export ASAN_OPTIONS=detect_leaks=0:protect_shadow_gap=0 UBSAN_OPTIONS=print_stacktrace=1
export PYTHONPATH=$copy PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1

# A check that cannot fail shows nothing: a read of one float behind a tensor has to be found.
planted="import ctypes, torch; x = torch.zeros(5); n = ctypes.c_long(5)
ctypes.CDLL('$work/planted.so').behind(ctypes.c_void_p(x.data_ptr()), n)"
if python -c "$planted" 2>"$work/found" || ! grep -q heap-buffer-overflow "$work/found"; then
    cat "$work/found" >&2
    echo "$0: a planted read behind a tensor was not found" >&2
    exit 1
fi

cd "$copy"
python -c "from spkver import native; assert native.AVAILABLE and native.__file__.startswith('$copy')"
# pytest keeps what a test writes to itself, and is gone when a sanitizer has stopped it: the report goes to a file.
export ASAN_OPTIONS=$ASAN_OPTIONS:log_path=$work/report UBSAN_OPTIONS=$UBSAN_OPTIONS:log_path=$work/report
status=0
python -m pytest -n 2 --max-worker-restart 0 --dist worksteal -q -p no:cacheprovider -k "kernel or native" \
    tests/native tests/models tests/heads tests/features "$@" || status=$?
head -n 16 "$work"/report.* >&2 2>/dev/null || true
exit "$status"
