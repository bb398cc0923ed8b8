"""The verbs ``export``, ``import-model`` and ``download-model``: models that go to others, and come from them.

Heavy imports stand inside the verb, so that ``spkver --help`` is instant.
"""

from collections.abc import Callable
from pathlib import Path

from spkver.cli.parser import VerbParser
from spkver.errors import SpkverError


def add_export_verbs(verb: Callable) -> None:
    """Give the parser its verbs of export and import; ``verb(name, function)`` adds one."""
    added = verb("export", export)
    added.add_argument("model", type=Path, help="model folder, or an experiment that has one")
    added.add_argument("file", type=Path, nargs="?", metavar="FILE.onnx", help="ONNX from waveform to embedding")
    added.add_argument("--int8", action="store_true", help="with FILE: 8-bit weights, a third of the size")
    added.add_argument("--data", type=Path, help="with FILE: data directory with speech to check the file by")
    added.add_argument("--huggingface", type=Path, metavar="DIR", help="a folder ready to upload")
    added.add_argument(
        "--license", default="apache-2.0", metavar="ID", help="with DIR: of the weights (default: apache-2.0)"
    )
    added = verb("import-model", import_model)
    added.add_argument("file", type=Path, nargs="?", metavar="FILE.onnx", help="network from features to embedding")
    added.add_argument(
        "out", type=Path, help="folder of the experiment to make, as exp/NAME: the model is in exp/NAME/model"
    )
    added.add_argument(
        "--weights", type=Path, metavar="FILE.pt", help="instead of FILE.onnx: a checkpoint of the toolkit"
    )
    _add_import(added)

    added = verb("download-model", download_model)
    added.add_argument("name", nargs="?", help="which one; without it, they are listed")
    added.add_argument("out", type=Path, nargs="?", help="folder of the experiment to make (default: exp/NAME)")
    added.add_argument(
        "--downloads", type=Path, default=Path("downloads"), help="folder that the file is kept in (default: downloads)"
    )


def _add_import(added: VerbParser) -> None:
    likes = ["auto", "wespeaker", "3dspeaker", "sherpa-onnx"]
    added.add_argument(
        "--like",
        choices=likes,
        default="auto",
        help="toolkit whose features the network takes (default: auto, which reads the file's metadata and names)",
    )
    added.add_argument(
        "--config", type=Path, help="YAML with what differs, as features.window; or WeSpeaker's config.yaml"
    )
    added.add_argument("--recording", type=Path, metavar="FILE", help="speech to check it by, beside made-up sounds")
    added.add_overrides("key.sub=value", "values of the configuration that differ, as features.scale=unit")


def import_model(options) -> None:
    """Make a model of another toolkit's network: all that comes after embeddings works on it."""
    from spkver.export.import_model import import_onnx, import_weights

    if (options.file is None) == (options.weights is None):
        raise SpkverError("import-model: name the network, FILE.onnx or --weights FILE.pt, and the folder to make")
    importing = import_onnx if options.weights is None else import_weights
    how = options.like, options.config, options.overrides, options.recording
    print(importing(options.file or options.weights, options.out, *how))


def download_model(options) -> None:
    """Fetch a public model of another toolkit and import it; nothing is fetched without its name."""
    from spkver.corpora.public_models import MODELS, fetch_model, listing

    if options.name is None:
        print(listing())
        return
    from spkver.export.import_model import import_onnx

    file = fetch_model(options.name, options.downloads)
    model = MODELS[options.name]
    print(f"{options.name}: {model.trained_on}; {model.licence}")
    print(import_onnx(file, options.out or Path("exp") / options.name, model.like))


def export(options) -> None:
    """Write a model as one ONNX file from waveform to embedding, or as a folder for Hugging Face."""
    if options.file is None and options.huggingface is None:
        raise SpkverError("export: name what to write, FILE.onnx or --huggingface DIR (or both)")
    if options.file is not None and options.file.suffix != ".onnx":
        raise SpkverError(f"export: {options.file} is no name of an ONNX file; let it end in .onnx")
    if options.file is None and (options.int8 or options.data):
        raise SpkverError("export: --int8 and --data are about an ONNX file; name FILE.onnx")
    from spkver.experiment.model_folder import model_folder

    folder = model_folder(options.model)
    if options.file is not None:
        from spkver.data.directory import read_data_directory
        from spkver.export.onnx_file import export_onnx

        data = None if options.data is None else read_data_directory(options.data)
        print(export_onnx(folder, options.file, options.int8, data))
    if options.huggingface is not None:
        from spkver.export.huggingface import export_huggingface

        metrics = folder.absolute().parent / "metrics.json"
        print(export_huggingface(folder, metrics, options.huggingface, options.license))
