"""The tour with its outputs as one HTML page that loads nothing: render.py PAGE.html, after recipes/tour/run.sh.

Needs `pip install nbconvert` beside the extra `notebook`.
"""

import base64
import io
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from PIL import Image

from spkver.files import atomic_write

NOTEBOOK = Path(__file__).with_name("tour.ipynb")
# No kernel moves a widget in a page; the notebook has a picture for where there is none.
NO_WIDGETS = "import sys; sys.modules['ipywidgets'] = None"
HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>A tour of a training</title>
<style>
body { max-width: 60em; margin: auto; padding: 0 1em 3em; font: 16px/1.5 system-ui, sans-serif }
body { color: #222; background: #fff }
pre { overflow-x: auto; padding: .6em; font-size: 14px; background: #f2f2f2 }
.output_area pre { white-space: pre-wrap }
code { font-size: 90%; overflow-wrap: anywhere }
img { max-width: 100%; background: #fff }
audio { max-width: 100% }
/* On a phone a picture of two panels keeps a size at which it can be read, and is moved under the finger. */
@media (max-width: 700px) {
  .output_subarea { overflow-x: auto }
  img { max-width: 46em !important }
}
.prompt, .anchor-link { display: none }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #181818 }
  pre { background: #262626 }
  a { color: #8ab4f8 }
}
</style>
</head>
<body>
"""


def render(page: Path) -> None:
    """Execute the notebook where it lies and write it with all it shows."""
    tour = nbformat.read(NOTEBOOK, as_version=4)
    tour.cells.insert(0, nbformat.v4.new_code_cell(NO_WIDGETS))
    NotebookClient(tour, timeout=600, kernel_name="python3").execute(cwd=str(NOTEBOOK.parent))
    del tour.cells[0]
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(tour)
    body = re.sub(r"(?<=data:image/png;base64,)[A-Za-z0-9+/=\s]+", smaller, body)
    with atomic_write(page) as file:
        file.write(f"{HEAD}{body}\n</body>\n</html>\n")


def smaller(found: re.Match) -> str:
    """A picture in 128 colours, which is a third of it."""
    picture = Image.open(io.BytesIO(base64.b64decode(found[0])))
    buffer = io.BytesIO()
    (picture if picture.mode == "P" else picture.convert("RGB").quantize(128)).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


if __name__ == "__main__":
    render(Path(sys.argv[1]))
