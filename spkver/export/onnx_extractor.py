"""An exported file in the place of the encoder: embeds what an `Extractor` embeds, by onnxruntime."""

from pathlib import Path

import numpy as np
import torch

from spkver.data.variants import Variant
from spkver.embedding.extractor import Extracted, Extractor, encoder_input
from spkver.errors import SpkverError
from spkver.experiment.model_folder import read_config
from spkver.models.onnx_encoder import open_session
from spkver.scoring.backend_folder import Backend


class OnnxExtractor(Extractor):
    """Embeds waveforms with an ONNX file, on one thread a call, as `spkver embed` calls it from each core.

    Args:
        file: written by ``spkver export``.
        model: the model folder that it was made from; settings of scoring are read there.
        device: a GPU is used where onnxruntime can (the package onnxruntime-gpu); the CPU does it elsewhere.

    Raises:
        SpkverError: onnxruntime is missing, the file is no such file, or of another model.
    """

    def __init__(self, file: Path, model: Path, device: torch.device | None = None):
        # No call of the parent's: what it sets up is the encoder, which here is the file.
        self.file, self.model = file, model
        if not file.is_file():
            raise SpkverError(f"{file}: there is no such file; `spkver export MODEL {file}` writes it")
        self.session = open_session(file, device)
        properties = _properties(self.session, file)
        self.config = read_config(model)
        if properties["model_fingerprint"] != Backend(model).digest:
            raise SpkverError(f"{file}: was made from another model than {model}; run `spkver export {model} {file}`")
        self.variants = tuple(Variant(*factors) for factors in self.config.scoring.variants)
        self.sample_rate, self.embed_dim = properties["sample_rate"], properties["embed_dim"]
        self.masks_padding = bool(properties["masks_padding"])
        """Whether recordings of unequal length may be given at once, padded."""
        self.fbank = encoder_input(self.config).fbank.eval()  # what finds speech in a recording
        self.system = "onnx_int8" if properties["precision"] == "int8" else "onnx"
        """The name of its system in tables."""

    def extract(self, waveforms: list[np.ndarray]) -> Extracted:
        """Embeddings and their magnitudes of waveforms ``(n_samples,)`` at the configured rate.

        One after another: on one thread a batch is not faster, and here nothing is padded.
        """
        parts = [self.run_padded([waveform]) for waveform in waveforms]
        return Extracted(*map(np.concatenate, zip(*parts)))

    def run_padded(self, waveforms: list[np.ndarray]) -> Extracted:
        """The same in one call of the file, all padded to the longest."""
        waveforms = [self.middle(waveform) for waveform in waveforms]
        seconds = np.array([len(waveform) for waveform in waveforms]) / self.sample_rate
        waveforms = [self.long_enough(waveform) for waveform in waveforms]
        lengths = np.array([len(waveform) for waveform in waveforms])
        padded = np.zeros((len(waveforms), lengths.max()), np.float32)
        for row, waveform in zip(padded, waveforms):
            row[: len(waveform)] = waveform
        inputs = {"waveform": padded, "lengths": lengths}
        embeddings, magnitudes = self.session.run(["embedding", "magnitude"], inputs)
        return Extracted(embeddings, magnitudes, seconds)


def _properties(session, file: Path) -> dict:
    """What ``spkver export`` wrote beside the graph."""
    try:
        properties = session.get_modelmeta().custom_metadata_map
        numbers = {name: int(properties[name]) for name in ("sample_rate", "embed_dim")}
        numbers["masks_padding"] = int(properties.get("masks_padding", 1))  # files of before do not say
        return {name: properties[name] for name in ("model_fingerprint", "precision")} | numbers
    except (KeyError, ValueError) as error:  # not there; no number, or no UTF-8
        reason = f"{type(error).__name__}: {error}"
        raise SpkverError(
            f"{file}: was not written by `spkver export`, or was damaged; it does not say what model it is ({reason})"
        ) from None
