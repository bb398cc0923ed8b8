"""The formats that spkver reads: for each, whole files to damage, and the public function that reads them."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from damage import damaged

SAMPLES = np.random.default_rng(0).standard_normal(16000).astype(np.float32) / 10


@dataclass(frozen=True)
class Format:
    """One kind of input.

    Args:
        source: a folder with whole files, below that of the material.
        patterns: of the files in it that are damaged, one at a time.
        read: reads the folder; what it raises is judged.
        share: of the campaign's inputs, against 1 for the others: less where reading takes long.
        copied: whether the reader writes into the folder, so that the whole files must be copies of their own.
    """

    source: str
    patterns: tuple[str, ...]
    read: Callable[[Path, Path], object]
    share: float = 1.0
    copied: bool = False

    def make_whole(self, material: Path, folder: Path, file: Path | None = None) -> None:
        """Put the files into an empty folder as they are; ``file`` as a copy of its own, as a damaged one would be."""
        source = material / self.source
        file = file or self.files(material)[0]
        _fill(source, folder, file.relative_to(source).parts, self.copied)
        shutil.copyfile(file, folder / file.relative_to(source))

    def files(self, material: Path) -> list[Path]:
        """Those that are damaged."""
        source = material / self.source
        files = sorted({path for pattern in self.patterns for path in source.glob(pattern) if path.is_file()})
        assert files, f"{source}: nothing like {self.patterns}"
        return files

    def make(self, material: Path, rng: Random, folder: Path) -> None:
        """Put the files into an empty folder, one of them damaged."""
        file = rng.choice(self.files(material))
        self.make_whole(material, folder, file)
        target = folder / file.relative_to(material / self.source)
        target.write_bytes(damaged(file.read_bytes(), file.suffix, rng))


def _fill(source: Path, folder: Path, parts: tuple[str, ...], copied: bool) -> None:
    """Everything but the file at the end of ``parts``, by links where nothing writes to it."""
    for path in source.iterdir():
        target = folder / path.name
        if path.name == parts[0]:
            if len(parts) > 1:
                target.mkdir()
                _fill(path, target, parts[1:], copied)
        elif not copied:
            target.symlink_to(path)
        elif path.is_dir():
            shutil.copytree(path, target)
        else:
            shutil.copyfile(path, target)


def _config(folder: Path, material: Path):
    from spkver.config import load_config

    (file,) = (path for path in folder.glob("*.yaml") if not path.is_symlink())
    return load_config(file)


def _override(folder: Path, material: Path):
    from spkver.config import load_config

    text = (folder / "override").read_text(encoding="utf-8", errors="surrogateescape")
    return load_config(material / "config" / "complete.yaml", [text])


def _experiment(folder: Path, material: Path):
    from spkver.pictures import Run

    return Run(folder).config


def _data_directory(folder: Path, material: Path):
    from spkver.data.audio_check import read_survey
    from spkver.data.directory import read_data_directory

    read_survey(folder)
    return read_data_directory(folder, check_files=False)


def _recordings_table(folder: Path, material: Path):
    from spkver.corpora.found_recordings import find_recordings

    (file,) = (path for path in folder.iterdir() if not path.is_symlink())
    return find_recordings(file)


def _trials(folder: Path, material: Path):
    from spkver.data.trials import read_trials

    (file,) = (path for path in folder.iterdir() if not path.is_symlink())
    return read_trials(file)


def _scores(folder: Path, material: Path):
    from spkver.scoring.score_files import read_scores

    return read_scores(folder / "trials-cosine")


def _foreign_scores(folder: Path, material: Path):
    from spkver.data.trials import read_trials
    from spkver.scoring.external_scores import match_scores

    (file,) = (path for path in folder.iterdir() if not path.is_symlink())
    return match_scores(file, read_trials(material / "data" / "test" / "trials"))


def _enrolment(folder: Path, material: Path):
    from spkver.data.lookup import Rows
    from spkver.embedding.folder import read_embeddings
    from spkver.scoring.backends.enrolment import read_models

    _, utts = read_embeddings(material / "exp" / "embeddings" / "test")
    return read_models(folder / "enrolment", Rows(utts, "utts"))


def _audio(folder: Path, material: Path):
    from spkver.data.audio import audio_info, read_audio
    from spkver.data.streaming import audio_blocks

    (file,) = (path for path in folder.iterdir() if not path.is_symlink())
    audio_info(file)
    read_audio(file, 16000)
    for _ in audio_blocks(file, 16000, 1.0):
        pass


def _verify(folder: Path, material: Path):
    import spkver

    (file,) = (path for path in folder.iterdir() if not path.is_symlink())
    score = spkver.load(material / "exp" / "model").verify(file, SAMPLES, sample_rate=16000)
    assert np.isfinite(score.score), score


def _tar(folder: Path, material: Path):
    from spkver.corpora.unpack import unpack

    (file,) = (path for path in folder.iterdir() if not path.is_symlink())
    unpack(file, folder / "out")
    _nothing_leads_out(folder)


def _zip(folder: Path, material: Path):
    from spkver.corpora.unpack import unpack_zip

    unpack_zip(folder / "archive.zip", folder / "out")
    _nothing_leads_out(folder)


def _nothing_leads_out(folder: Path) -> None:
    for path in (folder / "out").rglob("*"):
        assert path.resolve().is_relative_to(folder.resolve()), path
    assert {path.name for path in folder.parent.iterdir()} <= {"input", "said"}


def _state(folder: Path, material: Path):
    from spkver.training.checkpoint import load_state

    return load_state(folder / "checkpoints", {"epoch": int, "encoder": dict})


def _resume(folder: Path, material: Path):
    from spkver.config import load_config
    from spkver.data.directory import read_data_directory
    from spkver.experiment.paths import Experiment
    from spkver.training.trainer import Trainer

    config = load_config(folder / "config.yaml")
    directory = read_data_directory(material / "data" / "train", check_files=False)
    Trainer(config, directory, Experiment(folder), None, True).run({})


def _weights_of_epochs(folder: Path, material: Path):
    from spkver.training.checkpoint import average, epochs_kept

    return average(list(epochs_kept(folder).values()))


def _log(folder: Path, material: Path):
    from spkver.pictures import Run

    run = Run(folder)
    return run.steps, run.epochs


def _metrics(folder: Path, material: Path):
    from spkver.scoring.evaluation import results_table
    from spkver.scoring.metrics.summary import update_metrics_json

    table = results_table([folder])
    update_metrics_json(folder / "metrics.json", "test/trials", "new", {"eer": 0.1, "targets": 1, "nontargets": 1})
    return table


def _store(folder: Path, material: Path):
    from spkver import SpeakerStore

    found = SpeakerStore(folder, material / "exp" / "model").identify(SAMPLES, sample_rate=16000)
    assert np.isfinite(found.score), found


def _model(folder: Path, material: Path):
    import spkver
    from spkver.experiment.model_folder import load_tensors, read_scoring, read_speakers

    read_speakers(folder)
    read_scoring(folder)
    load_tensors(folder / "head.safetensors")
    return spkver.load(folder)


def _back_end(folder: Path, material: Path):
    from spkver.scoring.backend_folder import Backend

    backend = Backend(folder)
    backend.cohort()
    backend.plda()
    return backend.calibration("cosine+asnorm")


def _imported(folder: Path, material: Path):
    from spkver.experiment.model_folder import read_scoring, read_speakers
    from spkver.scoring.backend_folder import Backend

    read_scoring(folder)
    read_speakers(folder)
    return Backend(folder).fingerprint()


def _snapshots(folder: Path, material: Path):
    from spkver.pictures import Run

    run = Run(folder)
    run.trajectory()
    return run.confusion_matrix()


def _embeddings(folder: Path, material: Path):
    from spkver.embedding.folder import read_embeddings, read_measures

    read_embeddings(folder)
    return read_measures(folder, ["duration", "magnitude"])


def _import(folder: Path, material: Path):
    from spkver.embedding.interchange import import_embeddings

    for name in ("e.scp", "e.ark", "text.ark", "e.npz", "each.npz", "e.npy", "files"):
        if (path := folder / name).exists() and not path.is_symlink():
            import_embeddings(path)
    if not (folder / "e.utts").is_symlink():
        import_embeddings(folder / "e.npy")


def _parts(folder: Path, material: Path):
    from spkver.data.directory import read_data_directory
    from spkver.embedding.parts import EmbeddingParts

    utterances = read_data_directory(material / "data" / "test", check_files=False).utterances
    parts = EmbeddingParts(folder, utterances, "model")
    return parts.read(0)


def _unfinished(folder: Path, material: Path):
    from spkver.scoring.stages import score_trials
    from spkver.scoring.system_files import System

    score_trials(material / "data" / "test", None, System(folder))
    made, whole = (exp / "scores" / "test" / "trials-cosine" for exp in (folder, material / "exp"))
    assert made.read_bytes() == whole.read_bytes(), "scores differ from those that were made at once"


def _download(folder: Path, material: Path):
    from spkver.corpora.download import download

    source = material / "download-source" / "file.bin"
    download(source.as_uri(), folder / "file.bin", hashlib.sha256(source.read_bytes()).hexdigest())
    assert (folder / "file.bin").read_bytes() == source.read_bytes(), "another file than at the source"


def _onnx(folder: Path, material: Path):
    from spkver.export.onnx_extractor import OnnxExtractor

    return OnnxExtractor(folder / "model.onnx", material / "exp" / "model").extract([SAMPLES])


def _report(folder: Path, material: Path):
    from spkver.pictures import Run
    from spkver.pictures.report import write_report

    path, _ = write_report(folder / "page.html", [Run(folder)], "pca")
    assert path.stat().st_size > 100_000


FORMATS = {
    "configurations": Format("config", ("*.yaml",), _config, 2),
    "overrides": Format("override", ("override",), _override),
    "configurations of runs": Format("exp", ("config.yaml",), _experiment),
    "data directories": Format(
        "data/test", ("wav.scp", "utt2spk", "spk2gender", "utt2dur", "unusable"), _data_directory
    ),
    "tables of recordings": Format("recordings", ("*.csv", "*.tsv"), _recordings_table),
    "trial lists": Format("trials", ("trials", "veri_test.txt"), _trials),
    "trial tables": Format("trials", ("*.csv", "*.tsv"), _trials),
    "score files": Format("exp/scores/test", ("trials-cosine",), _scores),
    "score files of other toolkits": Format("foreign", ("*",), _foreign_scores),
    "enrolment lists": Format("lists", ("enrolment",), _enrolment),
    "audio files": Format("audio", ("*",), _audio, 3),
    "audio files in verify": Format("audio", ("*",), _verify, 0.3),
    "tar archives": Format("archives", ("*.tar", "*.tar.*"), _tar),
    "zip archives": Format("archives", ("*.zip",), _zip),
    "training states": Format("exp", ("checkpoints/last.pt",), _state),
    "training states in train --resume": Format("exp", ("checkpoints/last.pt", "log.jsonl"), _resume, 0.3, copied=True),
    "weights of epochs": Format("exp/checkpoints", ("epoch-*.safetensors",), _weights_of_epochs),
    "training logs": Format("exp", ("log.jsonl",), _log),
    "metrics": Format("metrics", ("metrics.json",), _metrics, copied=True),
    "speaker stores": Format("store", ("*",), _store, copied=True),
    "model folders": Format("exp/model", ("config.yaml", "*.safetensors", "speakers"), _model),
    "back ends": Format("exp/model", ("backend/*", "backend/*/*"), _back_end),
    "model folders of imported embeddings": Format("imported", ("imported.json",), _imported, 0.5),
    "snapshots": Format("exp", ("snapshots/*",), _snapshots),
    "embeddings": Format("exp/embeddings/test", ("*",), _embeddings),
    "embeddings of other toolkits": Format("embeddings", ("*.*", "files/*/*"), _import, 2),
    "parts of embeddings": Format("parts", ("*",), _parts, copied=True),
    "unfinished scores": Format("unfinished", ("scores/test/.trials-cosine.*",), _unfinished, copied=True),
    "unfinished downloads": Format("download", ("*",), _download, copied=True),
    "ONNX files": Format("onnx", ("*.onnx",), _onnx, 0.3),
    "what a report shows": Format(
        "exp",
        ("metrics.json", "log.jsonl", "snapshots/*", "scores/*/*", "model/config.yaml"),
        _report,
        0.05,
        copied=True,
    ),
}
