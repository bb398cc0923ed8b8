"""Which system decides with a model."""

import shutil

import pytest

from spkver.scoring.backend_folder import Backend
from spkver.scoring.systems import deciding_system


@pytest.mark.parametrize(
    "calibrated, expected",
    [
        ([], "cosine"),
        (["plda"], "plda+calibration"),
        (["plda", "cosine"], "cosine+calibration"),
        (["plda", "cosine", "cosine+asnorm"], "cosine+asnorm+calibration"),
        (["cosine+znorm"], "cosine"),
    ],
)
def test_calibrated_as_norm_decides_before_the_cosine_and_that_before_plda(trained, tmp_path, calibrated, expected):
    model = shutil.copytree(trained / "model", tmp_path / "model", ignore=shutil.ignore_patterns("backend"))
    (model / "backend").mkdir()
    for system in calibrated:
        (model / "backend" / f"calibration-{system}.json").touch()
    assert deciding_system(Backend(model)) == expected
