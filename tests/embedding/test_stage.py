"""``spkver embed``: killed and run again it has the numbers of a run in peace; unusable files are told by path."""

import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
from forked import Forked

from spkver.cli import main
from spkver.data.audio import read_audio
from spkver.data.audio_check import read_survey
from spkver.data.directory import Utterance, read_data_directory, write_data_directory
from spkver.embedding.extractor import Extractor
from spkver.embedding.folder import read_embeddings, read_measures
from spkver.embedding.parts import UTTERANCES_A_PART
from spkver.embedding.stage import embed_directory
from spkver.embedding.workers import embed_group, embed_parts
from spkver.experiment.model_folder import load_model

N = 5 * UTTERANCES_A_PART - 40


@pytest.fixture
def many(voices, tmp_path):
    """A directory of several parts, and the experiment to embed it with is `exp`."""
    known = read_data_directory(voices).utterances
    utterances = [Utterance(f"u{n:04d}", known[n % 60].path, known[n % 60].speaker) for n in range(N)]
    write_data_directory(tmp_path / "many", utterances)
    return tmp_path / "many"


@pytest.fixture
def exp(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "exp")


@pytest.fixture(scope="module")
def alone(trained, voices):
    """Each of the sixty files embedded by itself, without the stage."""
    model = load_model(trained / "model")
    extractor = Extractor(model.encoder, model.config)
    files = [utterance.path for utterance in read_data_directory(voices).utterances]
    return np.stack([extractor.embed([read_audio(path, 16000)])[0] for path in files])


def embed(data, exp, *words):
    return main(["embed", str(data), str(exp), *words])


def start(data, exp):
    return Forked("embed", data, exp, "--workers", "2")


def made_by(exp):
    model = load_model(exp / "model")
    return Extractor(model.encoder, model.config), exp / "model", exp / "model" / "model.safetensors"


def parts_of(exp):
    """The parts of what was embedded last."""
    parts = (exp / "embeddings").glob(".many.parts-*")  # and locks, which come and go
    folders = sorted((path for path in parts if path.suffix != ".lock"), key=lambda folder: folder.stat().st_mtime_ns)
    return sorted(folders[-1].glob("part-*.npz")) if folders else []


@pytest.mark.parametrize("workers", ["1", "3"])
def test_every_file_has_the_embedding_that_it_has_alone(many, exp, alone, workers, capsys):
    assert embed(many, exp, "--workers", workers) == 0
    assert capsys.readouterr().out.startswith(f"{N} embeddings (")
    embeddings, utts = read_embeddings(exp / "embeddings" / "many")
    assert utts == [f"u{n:04d}" for n in range(N)]
    assert np.abs(embeddings - alone[np.arange(N) % 60]).max() < 1e-5
    durations = read_measures(exp / "embeddings" / "many", ["duration"])["duration"]
    first = soundfile.info(read_data_directory(many).utterances[0].path)
    assert durations[0] == pytest.approx(first.duration)
    assert list((exp / "embeddings").iterdir()) == [exp / "embeddings" / "many"]


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_leaves_nothing_half_and_goes_on_from_its_parts(many, exp, alone, signal_number):
    process = start(many, exp)
    deadline = time.monotonic() + 120
    while len(parts_of(exp)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal_number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if signal_number == signal.SIGKILL else 130), errors
    assert "Traceback" not in errors
    done = {path: path.stat().st_mtime_ns for path in parts_of(exp)}
    assert 2 <= len(done) < 5
    assert not (exp / "embeddings" / "many").exists()

    # Whatever is made again now would not be what the parts hold.
    marked = dict(np.load(min(done)))
    marked["magnitudes"] = marked["magnitudes"] + 1000
    np.savez(min(done), **marked)
    again = start(many, exp)
    assert again.wait(timeout=120) == 0, again.communicate()
    embeddings, utts = read_embeddings(exp / "embeddings" / "many")
    assert len(utts) == N
    assert np.abs(embeddings - alone[np.arange(N) % 60]).max() < 1e-5
    magnitudes = read_measures(exp / "embeddings" / "many", ["magnitude"])["magnitude"]
    assert (magnitudes > 1000).sum() == UTTERANCES_A_PART
    assert parts_of(exp) == []


def test_parts_of_other_weights_or_settings_or_of_changed_audio_are_made_again(many, exp, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("spkver.embedding.stage.write_embeddings", stop)
    assert embed(many, exp) == 130
    made = {path.name: path.stat().st_mtime_ns for path in parts_of(exp)}
    assert len(made) == 5

    assert embed(many, exp) == 130
    assert {path.name: path.stat().st_mtime_ns for path in parts_of(exp)} == made

    listed = read_data_directory(many).utterances[UTTERANCES_A_PART * 4 + 1].path
    before = listed.stat()
    os.utime(listed, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    try:
        assert embed(many, exp) == 130
    finally:
        os.utime(listed, ns=(before.st_atime_ns, before.st_mtime_ns))
    # The file is in every part that goes through all sixty.
    assert all(path.stat().st_mtime_ns != made[path.name] for path in parts_of(exp))

    made = {path.name: path.stat().st_mtime_ns for path in parts_of(exp)}
    weights = exp / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert embed(many, exp) == 130
    assert all(path.stat().st_mtime_ns != made[path.name] for path in parts_of(exp))

    made = {path.name: path.stat().st_mtime_ns for path in parts_of(exp)}
    config = exp / "model" / "config.yaml"
    config.write_text(config.read_text().replace("max_seconds: 60", "max_seconds: 1"))
    assert embed(many, exp) == 130
    assert all(path.stat().st_mtime_ns != made[path.name] for path in parts_of(exp))


def spoilt(many, n):
    """The directory with a silent file, a damaged one and one that is missing, ``n`` of each."""
    utterances = list(read_data_directory(many).utterances)
    soundfile.write(many / "silent.wav", np.zeros(16000), 16000)
    (many / "damaged.wav").write_bytes(b"no audio at all")
    for place in range(n):
        for offset, name in ((0, "silent.wav"), (140, "damaged.wav"), (300, "gone.wav")):
            old = utterances[offset + place]
            utterances[offset + place] = Utterance(old.id, many / name, old.speaker)
    write_data_directory(many, utterances)


def test_unusable_files_are_told_by_path_and_left_out(many, exp, capsys):
    spoilt(many, 1)
    assert embed(many, exp) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{N - 3} embeddings (")
    for name, reason in (("silent.wav", "silent"), ("damaged.wav", "unreadable"), ("gone.wav", "missing")):
        assert f"{many / name}: {reason}, left out\n" in captured.err
    _, utts = read_embeddings(exp / "embeddings" / "many")
    assert {"u0000", "u0140", "u0300"}.isdisjoint(utts)
    survey = read_survey(many)
    assert len(survey.ids) == len(survey.seconds) == N - 3
    assert [utt for utt, _, _ in survey.unusable] == ["u0000", "u0140"]  # a missing file may come back


def test_what_is_kept_of_the_files_is_in_the_order_of_the_directory(many, exp, monkeypatch):
    spoilt(many, 1)

    def last_first(*arguments):
        yield from reversed(list(embed_parts(*arguments)))

    monkeypatch.setattr("spkver.embedding.stage.embed_parts", last_first)
    assert embed(many, exp) == 0
    survey = read_survey(many)
    assert [utt for utt, _, _ in survey.unusable] == ["u0000", "u0140"]
    assert survey.ids.to_pylist() == [f"u{n:04d}" for n in range(N) if n not in (0, 140, 300)]


def test_too_many_unusable_files_end_the_run_before_all_are_read(many, exp, capsys):
    spoilt(many, 20)
    assert embed(many, exp, "--workers", "1") == 1
    error = capsys.readouterr().err
    assert f"{many}: 20 of {N} files (3.3%) are unusable, the first is {many / 'silent.wav'} (silent)" in error
    assert error.count("\n") == 1
    assert len(parts_of(exp)) < 5
    assert not (exp / "embeddings" / "many").exists()


def test_a_number_of_workers_below_one_is_refused(many, exp, capsys):
    with pytest.raises(SystemExit):
        embed(many, exp, "--workers", "0")
    assert "must be 1 or more, got 0" in capsys.readouterr().err


def test_processes_that_embed_together_make_each_part_once_and_write_what_one_alone_would(
    many, exp, trained, tmp_path, monkeypatch
):
    assert embed(many, exp, "--workers", "1") == 0
    (many / "utt2dur").unlink()
    both = shutil.copytree(trained, tmp_path / "both")
    made = []
    monkeypatch.setattr(
        "spkver.embedding.workers.embed_group", lambda *arguments: made.append(1) or embed_group(*arguments)
    )
    with ThreadPoolExecutor(2) as pool:  # locks exclude threads as they do processes
        said = list(
            pool.map(lambda _: embed_directory(read_data_directory(many), both, *made_by(both), workers=1), range(2))
        )
    assert len(made) == 5
    assert sorted(line.split()[0] for line in said) == [str(N), "another"]
    for name in ("embeddings.npy", "utts"):
        one, other = (folder / "embeddings" / "many" / name for folder in (exp, both))
        assert one.read_bytes() == other.read_bytes()
    assert [path.name for path in both.rglob("*") if path.name.startswith(".")] == []


def test_a_process_that_was_killed_leaves_its_part_to_another(many, exp, alone):
    first = start(many, exp)
    deadline = time.monotonic() + 120
    while len(parts_of(exp)) < 1 and time.monotonic() < deadline:
        time.sleep(0.001)
    second = start(many, exp)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    assert second.wait(timeout=120) == 0, second.communicate()
    embeddings, utts = read_embeddings(exp / "embeddings" / "many")
    assert len(utts) == N
    assert np.abs(embeddings - alone[np.arange(N) % 60]).max() < 1e-5
