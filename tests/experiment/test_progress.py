"""Progress of a long run: a bar where there is a terminal, a line a minute elsewhere."""

from types import SimpleNamespace

from spkver.experiment import progress
from spkver.experiment.progress import Progress


def test_without_a_terminal_a_line_is_said_once_a_minute(monkeypatch, capsys):
    now = 1000.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now))
    with Progress("epoch 1/3", 50, "step") as shown:
        for seconds in (1060, 1061, 1120, 1121, 1122):
            now = float(seconds)
            shown.show(10, f"at {seconds}")
    assert capsys.readouterr().err.splitlines() == [
        "epoch 1/3  step 20/50  at 1061",
        "epoch 1/3  step 50/50  at 1122",
    ]


class Terminal:
    """What tqdm takes for a terminal."""

    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


def test_a_terminal_has_a_bar_that_begins_where_the_run_was_resumed(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress("epoch 2/3", 50, "step", done=20) as shown:
        for _ in range(10):
            shown.show(3, "loss  3.000  acc")
            shown._bar.refresh()
    drawn = [line.strip() for line in terminal.text.split("\r") if line.strip()]
    assert drawn[0].startswith("epoch 2/3:  40%") and "20/50" in drawn[0]
    assert drawn[-1].startswith("epoch 2/3: 100%") and "50/50" in drawn[-1] and "step/s, loss  3.000  acc" in drawn[-1]
