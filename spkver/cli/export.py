"""The verb ``export``: a model as an ONNX file, or as a folder for Hugging Face.

Heavy imports stand inside the verb, so that ``spkver --help`` is instant.
"""

from collections.abc import Callable
from pathlib import Path

from spkver.errors import SpkverError


def add_export_verbs(verb: Callable) -> None:
    """Give the parser its verb of export; ``verb(name, function)`` adds one."""
    added = verb("export", export)
    added.add_argument("model", type=Path, help="model folder, or an experiment that has one")
    added.add_argument("file", type=Path, nargs="?", metavar="FILE.onnx", help="ONNX from waveform to embedding")
    added.add_argument("--int8", action="store_true", help="with FILE: 8-bit weights, a third of the size")
    added.add_argument("--data", type=Path, help="with FILE: data directory with speech to check the file by")
    added.add_argument("--huggingface", type=Path, metavar="DIR", help="a folder ready to upload")
    added.add_argument(
        "--license", default="apache-2.0", metavar="ID", help="with DIR: of the weights (default: apache-2.0)"
    )


def export(options) -> None:
    """Write a model as one ONNX file from waveform to embedding, or as a folder for Hugging Face."""
    if options.file is None and options.huggingface is None:
        raise SpkverError("export: name what to write, FILE.onnx or --huggingface DIR (or both)")
    if options.file is not None and options.file.suffix != ".onnx":
        raise SpkverError(f"export: {options.file} is no name of an ONNX file; let it end in .onnx")
    if options.file is None and (options.int8 or options.data):
        raise SpkverError("export: --int8 and --data are about an ONNX file; name FILE.onnx")
    exp, folder = _places(options.model)
    if options.file is not None:
        from spkver.data.directory import read_data_directory
        from spkver.export.onnx_file import export_onnx

        data = None if options.data is None else read_data_directory(options.data)
        print(export_onnx(folder, options.file, options.int8, data))
    if options.huggingface is not None:
        from spkver.export.huggingface import export_huggingface

        print(export_huggingface(folder, exp / "metrics.json", options.huggingface, options.license))


def _places(model: Path) -> tuple[Path, Path]:
    """The experiment and the model folder that a path means."""
    if (model / "model" / "config.yaml").is_file():
        return model, model / "model"
    return model.absolute().parent, model
