"""The tour's notebook runs from a clean kernel on a finished run, and is kept without outputs."""

import json
import math
from pathlib import Path

import pytest

from spkver.errors import SpkverError
from spkver.pictures import notebook

TOUR = Path(__file__).parents[2] / "recipes" / "tour" / "tour.ipynb"


def test_the_notebook_is_kept_without_outputs():
    cells = json.loads(TOUR.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 15
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)


def test_the_notebook_runs_from_a_clean_kernel_and_shows_every_picture(scored, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    monkeypatch.setenv("SPKVER_EXP", str(scored))
    tour = nbformat.read(TOUR, as_version=4)
    nbclient.NotebookClient(tour, timeout=300, kernel_name="python3").execute(cwd=str(TOUR.parent))
    shown = [
        kind
        for cell in tour.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        for kind in output.get("data", {})
    ]
    # 4 of margins, 11 of the run; animations and sliders show themselves in other ways.
    assert shown.count("image/png") >= 15
    assert "text/html" in shown


def test_sliders_draw_where_they_stand():
    pytest.importorskip("ipywidgets", reason="ipywidgets is not installed")
    sliders = notebook.margin_sliders()
    assert [child.value for child in sliders.children[:3]] == [40, 0.2, 32]
    axis = notebook.margin_at(60, 0.5, 10.0).axes[0]
    points = [line.get_xydata()[0] for line in axis.lines if len(line.get_xydata()) == 1]
    assert points[0] == pytest.approx([60, 5.0], abs=1e-3)
    assert points[1] == pytest.approx([60, 10 * math.cos(math.pi / 3 + 0.5)], abs=1e-3)


def test_without_ipywidgets_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ipywidgets", None)
    with pytest.raises(SpkverError, match=r"pip install 'spkver\[notebook\]'"):
        notebook.margin_sliders()
