#!/usr/bin/env bash
# All tests, with their set-up. Words are passed to pytest: tests/run.sh -k sampler
#
#   tests/run.sh [PYTEST OPTION ...]

set -euo pipefail
cd "$(dirname "$0")/.."
. recipes/common.sh
set_up test pytest pytest-xdist hypothesis ruff espeakng-loader torchaudio selenium kaldiio mlxtend nbclient ipywidgets \
    onnx onnxscript onnxruntime shtab silero-vad transformers peft umap-learn m-phate

# Two processes; tests/conftest.py gives each one torch thread, as more of them would slow one another down.
python -m pytest -n 2 --dist worksteal -q "$@"
