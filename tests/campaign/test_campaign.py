"""Damaged inputs of every format are a clean error or are read: never a traceback, a hang, or more than 2 GB.

``tests/campaign/run.sh`` runs it. An input that must not be is kept, with what happened; its number and the format's
name are its seed.
"""

from pathlib import Path
from random import Random

import pytest
from formats import FORMATS, Format
from workers import OUTCOMES, Tally, run_inputs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def table(pytestconfig):
    """The outcome of each format, for the table at the end."""
    tallies: dict[str, Tally] = {}
    yield tallies
    pytestconfig.campaign_table = _lines(tallies)


def _lines(tallies: dict[str, Tally]) -> list[str]:
    columns = ("inputs", *OUTCOMES)
    rows = [(name, [tally.counts[column] for column in columns]) for name, tally in tallies.items()]
    rows.append(("together", [sum(counts) for counts in zip(*(counts for _, counts in rows))]))
    lines = ["", "| format | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(f"{count:,}" for count in counts) + " |" for name, counts in rows]
    slowest = max(tally.slowest_seconds for tally in tallies.values())
    most = max(tally.most_megabytes for tally in tallies.values())
    return [*lines, "", f"The slowest input took {slowest:.1f} s, the largest {most} MB."]


def _skip_without(chosen: Format, material: Path) -> None:
    if not (material / chosen.source).is_dir():
        pytest.skip("in the full campaign only")


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_input_is_a_clean_error_or_is_read(name, material, table, pytestconfig, tmp_path):
    chosen = FORMATS[name]
    _skip_without(chosen, material)
    n = round(pytestconfig.getoption("--inputs") * chosen.share / sum(each.share for each in FORMATS.values()))
    kept: Path = pytestconfig.getoption("--kept") or tmp_path / "kept"

    def make(rng: Random, folder: Path) -> None:
        chosen.make(material, rng, folder)

    tally = run_inputs(name, make, lambda folder: chosen.read(folder, material), max(n, 1), tmp_path, kept.absolute())
    table[name] = tally
    assert tally.faults == 0, f"{dict(tally.kinds.most_common(20))}; see {kept}"


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_damaged_is_read_while_it_is_whole(name, material, tmp_path):
    _skip_without(FORMATS[name], material)
    for number, file in enumerate(FORMATS[name].files(material)[:40]):
        folder = tmp_path / f"whole-{number}" / "input"
        folder.mkdir(parents=True)
        FORMATS[name].make_whole(material, folder, file)
        FORMATS[name].read(folder, material)


def test_the_campaign_counts_what_must_not_be(tmp_path):
    """A reader with every fault is found out."""
    import os
    import time

    import workers

    from spkver.errors import SpkverError

    faults = {
        0: lambda: None,
        1: lambda: (_ for _ in ()).throw(SpkverError("file: damaged")),
        2: lambda: {}["key"],
        3: lambda: os.kill(os.getpid(), 11),
        4: lambda: time.sleep(60),
        5: lambda: bytearray(3 << 30),
        6: lambda: print("Traceback (most recent call last):", file=__import__("sys").stderr),
    }

    def make(rng: Random, folder: Path) -> None:
        (folder / "input").write_text(str(rng.randrange(1000)))

    order = iter(range(100))

    def read(folder: Path) -> None:
        faults[numbers[folder.joinpath("input").read_text()]]()

    numbers = {str(Random(f"faulty {n}").randrange(1000)): n for n in range(7)}
    assert len(numbers) == 7 and order
    before, workers.MOST_SECONDS = workers.MOST_SECONDS, 1.0
    try:
        tally = run_inputs("faulty", make, read, 7, tmp_path / "work", tmp_path / "kept")
    finally:
        workers.MOST_SECONDS = before
    counts = {"inputs": 7, "accepted": 1, "clean errors": 1, "tracebacks": 3, "hangs": 1, "crashes": 1}
    assert dict(tally.counts) == counts
    assert len(list((tmp_path / "kept").iterdir())) == 5
    assert (tmp_path / "kept" / "faulty-2" / "input").is_file()
