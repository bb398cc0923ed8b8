"""What the machine refuses is one line of every verb: a full disk, a file in place of a folder, inputs that lack."""

import marshal
import resource
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

import spkver
from spkver import SpeakerStore
from spkver.cli import main
from spkver.config import load_config
from spkver.data.audio import read_audio
from spkver.data.directory import Utterance, read_data_directory, write_data_directory
from spkver.data.trial_making import make_trials
from spkver.data.trials import read_trials, write_trials
from spkver.embedding.folder import read_embeddings
from spkver.embedding.interchange import import_embeddings
from spkver.errors import SpkverError, one_line_for
from spkver.experiment.model_folder import read_speakers
from spkver.pictures import Run
from spkver.scoring.backend_folder import Backend
from spkver.scoring.backends.calibration import read_calibration
from spkver.scoring.backends.plda import Plda
from spkver.scoring.score_files import read_scores

# The verbs that write, with `{out}` where they write to; the rest is there and whole.
WRITING = {
    "prepare folder": "prepare folder {out} --audio {data}",
    "train": "train {config} --data {data} --exp {out} data.cache_gigabytes=0",
    "average": "average {out}",
    "prepare mini": "prepare mini {out} --train-voices 4 --test-voices 4 --sentences 2",
    "embed": "embed {data} {out}",
    "import-embeddings": "import-embeddings {data} {out} {exp}/embeddings/test",
    "export-embeddings": "export-embeddings {data} {exp} {out}/e.ark",
    "export-embeddings npz": "export-embeddings {data} {exp} {out}/e.npz",
    "score": "score {data} {out}",
    "norm": "norm {data} {out} --train {train} scoring.norm.top_n=2",
    "plda": "plda {data} {out} --train {train} scoring.plda.lda_dim=2",
    "calibrate": "calibrate {data} {out} --train {train}",
    "fuse": "fuse {data} {exp} {exp}:cosine+asnorm --train {train} --exp {out}",
    "evaluate": "evaluate {data} {out}",
    "enroll": "enroll me {data}/wav/v0/0.wav --store {out} --model {exp}/model",
    "plot margin": "plot margin --out {out}",
    "plot run": "plot run {exp} --only records --out {out}",
    "plot det": "plot det {exp} --out {out}",
    "plot architecture": "plot architecture {exp}/model --out {out}",
    "animate": "animate {exp} --frames 2 --out {out}/motion.gif",
    "report": "report {exp} --out {out}/report.html",
}
# Those that take the folder of an experiment as it is and write into it.
INTO_EXPERIMENT = ("average", "embed", "score", "norm", "plda", "calibrate", "evaluate")

# What a verb reads, with `{lacks}` in the place of one of its inputs.
READING = {
    "config": "config {lacks}",
    "prepare folder": "prepare folder {tmp}/new --audio {lacks}",
    "train, no configuration": "train {lacks} --data {data} --exp {tmp}/new",
    "train, no data": "train {config} --data {lacks} --exp {tmp}/new",
    "train, no model": "train {config} --data {data} --exp {tmp}/new --init {lacks}",
    "average": "average {lacks}",
    "average, no data": "average {exp} --data {lacks}",
    "embed, no data": "embed {lacks} {exp}",
    "embed, no experiment": "embed {data} {lacks}",
    "import-embeddings": "import-embeddings {data} {tmp}/new {lacks}",
    "export-embeddings": "export-embeddings {data} {lacks} {tmp}/e.npz",
    "score, no list": "score {data} {exp} --trials {lacks}",
    "score, no experiment": "score {data} {lacks}",
    "score, no enrolment": "score {data} {exp} --enrolment {lacks}",
    "norm": "norm {data} {exp} --train {lacks}",
    "plda": "plda {data} {exp} --train {lacks}",
    "calibrate": "calibrate {data} {exp} --train {lacks}",
    "fuse": "fuse {data} {exp} {lacks} --train {train} --exp {tmp}/new",
    "evaluate": "evaluate {data} {lacks}",
    "evaluate, no list": "evaluate {data} {exp} --trials {lacks}",
    "evaluate, no scores": "evaluate --scores {lacks} --trials {data}/trials",
    "threshold": "threshold {data} {lacks}",
    "compare": "compare {data} {exp} {lacks}",
    "results": "results {lacks}",
    "verify, no recording": "verify {lacks} {data}/wav/v0/0.wav --model {exp}/model",
    "verify, no model": "verify {data}/wav/v0/0.wav {data}/wav/v0/0.wav --model {lacks}",
    "enroll": "enroll me {lacks} --store {tmp}/new --model {exp}/model",
    "identify": "identify {data}/wav/v0/0.wav --store {lacks}",
    "speakers": "speakers --store {lacks}",
    "plot run": "plot run {lacks}",
    "plot det": "plot det {lacks}",
    "plot architecture": "plot architecture {lacks}",
    "animate": "animate {lacks}",
    "report": "report {lacks}",
}


KINDS = ("nothing", "a file", "an empty folder", "a name too long", "a link to itself")


@pytest.fixture(scope="module")
def finished(trained, voices, tmp_path_factory):
    """Data of the training speakers and of the test, and an experiment that went through every stage."""
    place = tmp_path_factory.mktemp("finished")
    for name in ("train", "test"):
        shutil.copytree(voices, place / name)
    known = read_data_directory(place / "test").utterances
    strangers = [Utterance(f"x{u.id}", u.path, f"x{u.speaker}") for u in known]
    write_data_directory(place / "test", strangers)
    trials = make_trials([u.id for u in strangers], [u.speaker for u in strangers], seed=1)
    write_trials(place / "test" / "trials", trials)
    shutil.copytree(trained, place / "exp")
    test, train, exp = (str(place / name) for name in ("test", "train", "exp"))
    for words in (["embed", train, exp], ["embed", test, exp], ["score", test, exp], ["evaluate", test, exp]):
        assert main(words) == 0
    assert main(["norm", test, exp, "--train", train, "scoring.norm.top_n=2"]) == 0
    return place


@pytest.fixture
def run(finished, tiny_config, tmp_path, capsys):
    """Run a verb that must fail; returns the one line that it says."""

    def run(words, **places):
        known = {"data": finished / "test", "train": finished / "train", "exp": finished / "exp", "tmp": tmp_path}
        known |= {"config": tiny_config, **places}
        capsys.readouterr()
        status = main(words.format(**known).split())
        said = capsys.readouterr().err
        assert status == 1
        assert said.count("\n") == 1 and said.endswith("\n"), said
        assert len(said) < 500
        return said

    return run


@contextmanager
def full_disk():
    """No file can have more than 100 bytes, which are enough for a semaphore.

    Python's cached code would be cut off without a word, for every later import.
    """
    limits, before = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        sys.dont_write_bytecode = before


def results(folder):
    """What stands in a folder: names with a dot are locks, and work that the next run goes on with.

    Of what scores were made is taken away before they are made anew, and written behind them.
    """
    found = (path for path in folder.rglob("[!.]*") if path.is_file() and "made_of" not in path.parts)
    return {path: path.read_bytes() for path in found}


@pytest.mark.parametrize("verb", WRITING)
def test_a_full_disk_is_one_line(run, finished, tmp_path, verb):
    out = tmp_path / "out"
    if verb in INTO_EXPERIMENT:
        shutil.copytree(finished / "exp", out)
    before = results(out)
    with full_disk():
        said = run(WRITING[verb], out=out)
    assert str(out) in said or (verb == "prepare mini" and "/spkver-" in said)  # its first files are temporary ones
    assert "File too large" in said or "disk full" in said
    assert results(out) == before


@pytest.mark.parametrize("verb", WRITING)
def test_a_file_where_a_folder_is_wanted_is_one_line(run, tmp_path, verb):
    (tmp_path / "out").write_text("a file")
    assert str(tmp_path / "out") in run(WRITING[verb], out=tmp_path / "out")
    assert (tmp_path / "out").read_text() == "a file"


@pytest.mark.parametrize("verb", WRITING)
def test_a_place_where_nothing_can_be_made_is_one_line(run, verb):
    """/proc takes no new files, of root neither."""
    assert "/proc/new" in run(WRITING[verb], out="/proc/new")


def lacking(folder, kind):
    """A path at which nothing of use is."""
    lacks = folder / ("n" * 300 if kind == "a name too long" else "lacks")
    if kind == "a file":
        lacks.write_bytes(b"\0\xff what is this")
    if kind == "an empty folder":
        lacks.mkdir()
    if kind == "a link to itself":
        lacks.symlink_to(lacks)
    return lacks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", READING)
def test_an_input_that_is_not_there_or_of_another_kind_is_one_line(run, tmp_path, verb, kind):
    run(READING[verb], lacks=lacking(tmp_path, kind))
    assert not (tmp_path / "new").exists()


def test_cached_code_that_a_full_disk_cut_off_is_one_line(run, monkeypatch):
    def cut(*_):
        marshal.loads(marshal.dumps(list(range(100)))[:50])

    monkeypatch.setattr("spkver.config.load_config", cut)
    folder = Path(spkver.__file__).parent
    assert run("config {config}") == (
        f"Python's cached code was cut off; remove the folders __pycache__ below {folder}\n"
    )


def test_a_full_disk_is_not_taken_for_pictures_without_data(run, tmp_path):
    with full_disk():
        run("plot run {exp} --only records drift --out {out}", out=tmp_path / "out")


READERS = {
    "load": spkver.load,
    "SpeakerStore": lambda path: SpeakerStore(path).voice,
    "Run": Run,
    "read_data_directory": read_data_directory,
    "read_trials": read_trials,
    "read_scores": read_scores,
    "read_embeddings": read_embeddings,
    "import_embeddings": import_embeddings,
    "read_calibration": read_calibration,
    "Plda.load": Plda.load,
    "load_config": load_config,
    "read_audio": lambda path: read_audio(path, 16000),
    "Backend": Backend,
    "read_speakers": read_speakers,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_what_cannot_be_read_is_the_one_exception_of_the_python_interface(tmp_path, reader, kind):
    with pytest.raises(SpkverError) as fault:
        READERS[reader](lacking(tmp_path, kind))
    assert "lacks" in str(fault.value) or "nnnn" in str(fault.value)


def test_a_long_message_keeps_both_ends_and_stays_one_line():
    message = str(SpkverError("file.yaml: key 'a\n\x1b[2J' has " + "x" * 100_000 + "; write a number"))
    assert len(message) < 500 and message.isprintable()
    assert message.startswith("file.yaml: key 'a\\n\\x1b[2J' has x") and message.endswith("x; write a number")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "a/b"), "a/b: No space left on device; make room and run again"),
        (MemoryError("Unable to allocate 7 GiB"), "out of memory (Unable to allocate 7 GiB); take less at once"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "out of memory"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
    ],
)
def test_what_the_machine_refuses_is_one_line(error, said):
    assert said in one_line_for(error)


def test_a_fault_of_the_program_stays_a_traceback():
    assert one_line_for(RuntimeError("shapes differ")) is None
    assert one_line_for(KeyError("key")) is None
