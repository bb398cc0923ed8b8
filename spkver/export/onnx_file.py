"""``spkver export MODEL FILE.onnx``: one file from waveform to embedding, checked against Python before it appears.

Inputs: ``waveform`` (batch, n_samples) float32 in [-1, 1] at ``sample_rate``, any lengths, padded with anything, and
``lengths`` (batch,) int64; where the metadata's ``masks_padding`` is 0, all of a batch must be equally long. Outputs:
``embedding`` (batch, embed_dim) of unit length, and ``magnitude`` (batch,), its length before that. What else a user
needs stands in the file's metadata.
"""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from spkver import __version__
from spkver.data.audio import read_audio
from spkver.data.directory import DataDirectory
from spkver.embedding.extractor import Extractor
from spkver.errors import SpkverError
from spkver.experiment.model_fingerprint import ONNX
from spkver.experiment.model_folder import Model, load_model
from spkver.export.extra import needs
from spkver.export.onnx_extractor import OnnxExtractor
from spkver.export.waveform_encoder import WaveformEncoder
from spkver.files import atomic_write
from spkver.models import ImportedEncoder, OnnxEncoder
from spkver.models.imported_encoder import said
from spkver.scoring.backend_folder import Backend

# The newest whose attention onnxruntime runs as fast as the products that it is made of; from 23 on it is one operator.
OPSET = 22
MAX_DIFFERENCE = 1e-4
MIN_COSINE = 0.99999
# Of int8, on average: less has lost the voice. What is lost above it, the EER tells.
MIN_COSINE_INT8 = 0.9
_CHECKED_UTTERANCES = 20
_MADE_UP_SECONDS = (0.05, 0.2, 0.7, 1.6, 4.0)


def export_onnx(folder: Path, file: Path, int8: bool = False, data: DataDirectory | None = None) -> str:
    """Write a model as ONNX; returns a line that says how near to Python it is.

    Args:
        folder: a model folder.
        file: to be written, whole or not at all.
        int8: weights of the matrix products in 8 bits, their inputs quantised as they come.
        data: recordings to check the file by, the first 20; made-up sounds are taken beside them, or alone.

    Raises:
        SpkverError: no model in the folder, a package is missing, or the file does not do what Python does.
    """
    needs("onnx", "onnxscript", "onnxruntime")
    model = load_model(folder)
    if isinstance(model.encoder, OnnxEncoder):
        raise SpkverError(f"{folder}: is the network of an ONNX file already, {ONNX} in that folder")
    extractor = Extractor(model.encoder, model.config)
    proto = _traced(extractor, model, file)
    if int8:
        proto = _quantised(proto)
    _describe(proto, model, extractor, "int8" if int8 else "float32")
    content = proto.SerializeToString()
    with tempfile.TemporaryDirectory() as draft:
        (Path(draft) / "draft.onnx").write_bytes(content)
        exported = OnnxExtractor(Path(draft) / "draft.onnx", model.folder)
        said = _check(exported, extractor, _waveforms(extractor, data), int8, file)
    with atomic_write(file, "wb") as out:
        out.write(content)
    return f"{said} -> {file} ({file.stat().st_size / 1e6:.1f} MB)"


def _traced(extractor: Extractor, model: Model, file: Path):
    """The ONNX model of spkver's own encoder, or of an imported one where it can be traced."""
    if not isinstance(model.encoder, ImportedEncoder):
        return _graph(extractor)
    try:
        return _graph(extractor)
    except Exception as error:  # whatever torch meets in somebody else's code
        raise SpkverError(f"{file}: not written, {model.config.model.name} cannot be traced ({said(error)})") from None


def _graph(extractor: Extractor):
    """The ONNX model, without metadata."""
    example = torch.zeros(2, 4 * extractor.sample_rate), torch.tensor([4, 3]) * extractor.sample_rate
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            WaveformEncoder(extractor).eval(),
            example,
            dynamo=True,
            dynamic_shapes=({0: "batch", 1: "n_samples"}, {0: "batch"}),
            input_names=["waveform", "lengths"],
            output_names=["embedding", "magnitude"],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None  # with dynamo=True
    return program.model_proto


def _quantised(proto):
    """The same with the weights of its matrix products in 8 bits, a scale for each column.

    Convolutions, the filterbank among them, stay as they are: their integer form is slower, and of power spectra
    with their range 8 bits would keep the loudest alone. One bit less for the weights, as processors without
    8-bit dot products would overflow and give other embeddings than those with them.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, _quiet():
        import onnx

        out = Path(folder) / "int8.onnx"
        quantize_dynamic(
            proto,
            out,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(out)


def _describe(proto, model: Model, extractor: Extractor, precision: str) -> None:
    """Put into the file what its user needs to know, and take out where it was made."""
    import onnx

    data, threshold = model.config.data, model.run.get("threshold")
    properties = {
        "sample_rate": data.sample_rate,
        "embed_dim": extractor.embed_dim,
        "max_seconds": model.config.scoring.max_seconds,
        "precision": precision,
        "masks_padding": int(WaveformEncoder(extractor).masks_padding),
        "threshold": "" if threshold is None else threshold,
        "model_fingerprint": Backend(model.folder).digest,
        "spkver": __version__,
    }
    proto.producer_name, proto.producer_version = "spkver", __version__
    # The exporter notes the source lines of each operator, with the paths of this machine.
    for named in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output, proto.graph):
        del named.metadata_props[:]
    onnx.helper.set_model_props(proto, {name: str(value) for name, value in properties.items()})


def _check(exported: OnnxExtractor, extractor: Extractor, waveforms: list[np.ndarray], int8: bool, file: Path) -> str:
    """Compare with Python, each waveform alone and all of them padded; returns a line of what was found."""
    expected = np.concatenate([extractor.embed([waveform]) for waveform in waveforms])
    alone = np.concatenate([exported.embed([waveform]) for waveform in waveforms])
    ways = [alone]
    if exported.masks_padding:
        batches = [waveforms[i : i + 8] for i in range(0, len(waveforms), 8)]
        ways.append(np.concatenate([exported.run_padded(batch).embeddings for batch in batches]))
    found = np.stack(ways).astype(np.float64)
    cosines = (found * expected).sum(2) / np.linalg.norm(found, axis=2) / np.linalg.norm(expected, axis=1)
    difference = np.abs(found - expected).max()
    passed = cosines.mean() > MIN_COSINE_INT8 if int8 else difference < MAX_DIFFERENCE and cosines.min() > MIN_COSINE
    beside = (
        f"largest difference {difference:.1e}, cosine {cosines.mean():.6f} in the mean, {cosines.min():.6f} at least"
    )
    if not passed:
        raise SpkverError(f"{file}: not written, its embeddings are not those of {exported.model}: {beside}")
    how = "alone and padded" if exported.masks_padding else "alone, as its encoder takes no padding"
    return f"{len(waveforms)} waveforms beside Python, {how}: {beside}"


def _waveforms(extractor: Extractor, data: DataDirectory | None) -> list[np.ndarray]:
    """What the file is checked by: recordings, and made-up sounds."""
    utterances: Sequence = [] if data is None else data.utterances[:_CHECKED_UTTERANCES]
    recordings = [read_audio(utterance.path, extractor.sample_rate) for utterance in utterances]
    return recordings + made_up_sounds(extractor.sample_rate)


def made_up_sounds(sample_rate: int) -> list[np.ndarray]:
    """Buzzes over noise of very short to usual lengths, each ``(n_samples,)`` float32."""
    rng = np.random.default_rng(0)
    sounds = []
    for seconds in _MADE_UP_SECONDS:
        time = np.arange(round(seconds * sample_rate)) / sample_rate
        buzz = np.sign(np.sin(2 * np.pi * rng.uniform(80, 250) * time)) * np.sin(2 * np.pi * 3 * time)
        sounds.append((0.1 * buzz + 0.01 * rng.standard_normal(len(time))).astype(np.float32))
    return sounds


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's and quantiser's remarks concern who writes exporters, not who calls them."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
