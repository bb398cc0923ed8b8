#!/usr/bin/env bash
# Mutation testing: a figure, an operator, an argument of the code is changed, and some test has to fail.
#
#   tests/mutation/run.sh [--sample N] [--seconds S] [--survivors] [--control] [FILE OR FOLDER ...]
#
# Without words: every mutant of the files that pyproject.toml names under [tool.mutmut]; some hours on one core.
#   --sample N    of each file N mutants, always the same ones (all where it has fewer)
#   --seconds S   tests of a mutant take no longer in all (20): the longer, the more are noticed, and the longer it takes
#   --control     no mutants, but each of their functions as it is, by the same tests: none may fail
#   --survivors   only those that no test noticed the last time, such as after new tests were written
# At the end: the mutants that nothing noticed, and the shares of noticed ones. `mutmut show NAME` shows a mutant.

set -euo pipefail
cd "$(dirname "$0")/../.."
. recipes/common.sh
set_up mutation mutmut pytest hypothesis torchaudio
# Its own copy of the package, in mutants/, must be what runs.
unset PYTHONPATH
OMP_NUM_THREADS=1 python tests/mutation/run.py "$@"
