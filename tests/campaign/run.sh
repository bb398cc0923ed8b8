#!/usr/bin/env bash
# The campaign: damaged inputs of every format, and verbs that are killed at random moments.
#
#   tests/campaign/run.sh [--inputs N] [--kills N] [--kept FOLDER] [PYTEST OPTION ...]
#
# Defaults: 20,000 inputs over all formats, 5 kills of each verb (half an hour on two cores). Inputs that end in a
# traceback, hang or crash are kept in FOLDER (campaign_faults), each with what happened.

set -euo pipefail
cd "$(dirname "$0")/../.."
. recipes/common.sh
set_up test pytest hypothesis espeakng-loader onnx onnxscript onnxruntime
OMP_NUM_THREADS=1 python -m pytest -q -m slow -p no:cacheprovider --show-capture=no tests/campaign \
    --inputs 20000 --kills 5 --kept campaign_faults "$@"
