"""What the campaign damages: a small run with everything that spkver writes, and what it reads of others."""

import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from spkver.cli import main
from spkver.data.directory import Utterance, read_data_directory, write_data_directory

FULL = 5000  # inputs from which on an ONNX file is among them, whose export takes half a minute
CONF = Path(__file__).resolve().parents[2] / "conf"


def pytest_addoption(parser):
    parser.addoption("--inputs", type=int, default=1500, help="of the campaign, over all formats (1500)")
    parser.addoption("--kills", type=int, default=2, help="at random moments, of each verb (2)")
    parser.addoption("--kept", type=Path, default=None, help="folder for inputs that must not be")


def pytest_terminal_summary(terminalreporter, config):
    for line in getattr(config, "campaign_table", ()):
        terminalreporter.write_line(line)


def spkver(*words):
    assert main([str(word) for word in words]) == 0


@pytest.fixture(scope="session")
def material(trained, voices, tiny_config, tmp_path_factory, pytestconfig):
    place = tmp_path_factory.mktemp("material")
    shutil.copytree(trained, place / "exp")
    _data(place / "data", voices)
    _run(place)
    _configurations(place, tiny_config)
    _lists(place)
    _audio(place / "audio", voices)
    _archives(place / "archives")
    _embeddings(place)
    _half_done(place)
    if pytestconfig.getoption("--inputs") >= FULL:
        (place / "onnx").mkdir()
        spkver("export", place / "exp" / "model", place / "onnx" / "model.onnx")
    return place


def _data(folder, voices):
    shutil.copytree(voices, folder / "train")
    known = read_data_directory(voices).utterances
    strangers = [Utterance(f"x{u.id}", u.path, f"x{u.speaker}") for u in known][:24]
    genders = {utterance.speaker: "f" for utterance in strangers}
    write_data_directory(folder / "test", strangers, genders, {u.id: 1.0 for u in strangers})
    (folder / "test" / "unusable").write_text("x1 /a/b.wav it is silent\n")
    (folder / "test" / "utt2dur").touch()


def _run(place):
    data, train, exp = place / "data" / "test", place / "data" / "train", place / "exp"
    utts = [line.split()[0] for line in (data / "wav.scp").read_text().splitlines()]
    pairs = [(a, b) for a in utts[:8] for b in utts if a != b]
    kinds = ("nontarget", "target")
    (data / "trials").write_text("".join(f"{a} {b} {kinds[a.split('-')[0] == b.split('-')[0]]}\n" for a, b in pairs))
    spkver("embed", train, exp)
    spkver("embed", data, exp)
    spkver("score", data, exp)
    spkver("evaluate", data, exp)
    spkver("norm", data, exp, "--train", train, "scoring.norm.top_n=2")
    spkver("plda", data, exp, "--train", train, "scoring.plda.lda_dim=2")
    spkver(
        "calibrate", data, exp, "--train", train, "--system", "cosine+asnorm", "scoring.calibration.quality=[duration]"
    )
    spkver("evaluate", data, exp, "--system", "cosine+asnorm")
    for name in ("anna", "bert"):
        spkver("enroll", name, train / "wav" / "v0" / "0.wav", "--store", place / "store", "--model", exp / "model")
    (place / "metrics").mkdir()
    shutil.copy(exp / "metrics.json", place / "metrics")


def _configurations(place, tiny_config):
    (place / "config").mkdir()
    complete = yaml.safe_load((place / "exp" / "config.yaml").read_text())
    complete.pop("run")
    (place / "config" / "complete.yaml").write_text(yaml.safe_dump(complete, sort_keys=False))
    shutil.copy(tiny_config, place / "config" / "based.yaml")
    shutil.copy(CONF / "base.yaml", place / "config")
    (place / "override").mkdir()
    (place / "override" / "override").write_text("optimizer.lr=0.01")


def _lists(place):
    test = place / "data" / "test"
    pairs = [line.split() for line in (test / "trials").read_text().splitlines()]
    scores = (place / "exp" / "scores" / "test" / "trials-cosine").read_text().splitlines()
    for name in ("trials", "foreign", "lists", "recordings"):
        (place / name).mkdir()
    shutil.copy(test / "trials", place / "trials")
    label = {"target": 1, "nontarget": 0}
    (place / "trials" / "veri_test.txt").write_text("".join(f"{label[c]} {a} {b}\n" for a, b, c in pairs))
    rows = ["enroll,test,label,score,snr", *(f"{a},{b},{c},0.5,{n}" for n, (a, b, c) in enumerate(pairs))]
    (place / "trials" / "trials.csv").write_text("\n".join(rows) + "\n")
    (place / "trials" / "trials.tsv").write_text("\n".join(rows).replace(",", "\t") + "\n")
    (place / "foreign" / "three.txt").write_text("".join(" ".join(line.split()[:3]) + "\n" for line in scores))
    (place / "foreign" / "one.txt").write_text("".join(line.split()[2] + "\n" for line in scores))
    (place / "foreign" / "scores.csv").write_text("\n".join(rows) + "\n")
    utts = [line.split()[0] for line in (test / "wav.scp").read_text().splitlines()]
    (place / "lists" / "enrolment").write_text("".join(f"m{n} {' '.join(utts[n : n + 3])}\n" for n in range(0, 18, 3)))
    (place / "recordings" / "mine.csv").write_text(
        "path,speaker,gender\n" + "".join(f"{u}.wav,s{u[1]},f\n" for u in utts)
    )
    (place / "recordings" / "mine.tsv").write_text("path\tspeaker\n" + "".join(f"{u}.wav\ts{u[1]}\n" for u in utts))
    for utt in utts:
        (place / "recordings" / f"{utt}.wav").touch()


def _audio(folder, voices):
    folder.mkdir()
    samples, rate = soundfile.read(voices / "wav" / "v0" / "0.wav")
    kinds = {
        "wav": "PCM_16",
        "flac": "PCM_16",
        "ogg": "VORBIS",
        "mp3": "MPEG_LAYER_III",
        "aiff": "PCM_16",
        "w64": "PCM_16",
        "au": "PCM_16",
    }
    kinds |= {"caf": "ALAC_16", "rf64": "PCM_24"}
    for suffix, subtype in kinds.items():
        if soundfile.check_format(suffix.upper(), subtype):
            soundfile.write(folder / f"a.{suffix}", samples, rate, format=suffix.upper(), subtype=subtype)
    soundfile.write(folder / "float.wav", samples, rate, subtype="FLOAT")
    soundfile.write(folder / "stereo.wav", np.stack([samples, samples], 1), 44100)
    soundfile.write(folder / "opus.ogg", samples, rate, format="OGG", subtype="OPUS")
    soundfile.write(folder / "adpcm.wav", samples, rate, subtype="MS_ADPCM")


def _archives(folder):
    folder.mkdir()
    inside = folder / "corpus"
    (inside / "wav").mkdir(parents=True)
    for name in ("a", "b", "wav/c"):
        (inside / name).write_bytes(name.encode() * 300)
    os.symlink("a", inside / "link")
    for mode in ("", "gz", "bz2", "xz"):
        with tarfile.open(folder / f"archive.tar{mode and '.'}{mode}", f"w:{mode}") as archive:
            archive.add(inside, "corpus")
    with zipfile.ZipFile(folder / "archive.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a", "b", "wav/c"):
            archive.write(inside / name, name)
    shutil.rmtree(inside)


def _embeddings(place):
    folder, exp, data = place / "embeddings", place / "exp", place / "data" / "test"
    (folder / "files" / "v").mkdir(parents=True)
    for name in ("e.ark", "e.npz"):
        spkver("export-embeddings", data, exp, folder / name)
    scp = (folder / "e.scp").read_text()
    (folder / "e.scp").write_text(scp.replace(f"{folder}/", ""))
    rows = np.load(exp / "embeddings" / "test" / "embeddings.npy")
    utts = (exp / "embeddings" / "test" / "utts").read_text().split()
    lines = (f"{utt}  [ {' '.join(map(str, row))} ]\n" for utt, row in zip(utts, rows))
    (folder / "text.ark").write_text("".join(lines))
    np.savez(folder / "each.npz", **dict(zip(utts, rows)))
    np.save(folder / "e.npy", rows)
    (folder / "e.utts").write_text("\n".join(utts))
    for utt, row in zip(utts, rows):
        np.save(folder / "files" / "v" / f"{utt}.npy", row)
    (place / "imported").mkdir()
    (place / "imported" / "imported.json").write_text(json.dumps({"source": "/a/b.npz", "dimensions": 16}))


def _half_done(place):
    from spkver.embedding.parts import EmbeddingParts, Part

    data = read_data_directory(place / "data" / "test", check_files=False)
    parts = EmbeddingParts(place / "parts", data.utterances, "model")
    n = len(data.utterances)
    values = {
        "embeddings": np.ones((n, 16), np.float32),
        "reasons": np.full(n, ""),
        "stamps": np.zeros((n, 2), np.int64),
    }
    parts.write(0, Part(**{name: values.get(name, np.ones(n)) for name in Part._fields}))

    exp = place / "unfinished"
    (exp / "scores" / "test").mkdir(parents=True)
    for name in ("model", "embeddings"):
        shutil.copytree(place / "exp" / name, exp / name)
    whole = (place / "exp" / "scores" / "test" / "trials-cosine").read_bytes()
    (exp / "scores" / "test" / ".trials-cosine.unfinished").write_bytes(whole[: len(whole) // 2])
    state = {"fingerprint": {}, "read": 100, "written": 100, "n_trials": 3}
    (exp / "scores" / "test" / ".trials-cosine.unfinished.json").write_text(json.dumps(state))

    source = place / "download-source" / "file.bin"
    source.parent.mkdir()
    source.write_bytes(np.random.default_rng(0).bytes(20_000))
    (place / "download").mkdir()
    (place / "download" / "file.bin.part").write_bytes(source.read_bytes()[:7000])
