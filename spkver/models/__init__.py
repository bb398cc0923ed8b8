"""Encoders: filterbanks or waveforms -> speaker embeddings."""

from spkver.config import schema
from spkver.errors import SpkverError
from spkver.models.imported_encoder import ImportedEncoder, import_encoder
from spkver.models.onnx_encoder import OnnxEncoder
from spkver.models.speech_encoder_v3 import SpeechEncoderV3

__all__ = ["Encoder", "ImportedEncoder", "OnnxEncoder", "SpeechEncoderV3", "build_encoder"]

Encoder = SpeechEncoderV3 | ImportedEncoder | OnnxEncoder
"""What embeds: ``forward(features, lengths, average)``, the same as ``unnormalised``, and ``embed_dim``."""


def build_encoder(config: schema.Model, n_mels: int | None) -> SpeechEncoderV3 | ImportedEncoder:
    """The encoder of a configuration's ``model`` section; ``n_mels`` is None where features are the waveform.

    Raises:
        SpkverError: the class that it names is not there or takes other arguments; the section is of an encoder that
            cannot be built.
    """
    if isinstance(config, schema.OnnxEncoder):
        raise SpkverError("model.name=onnx: the network of an ONNX file can be used, not trained")
    if isinstance(config, schema.ImportedEncoder):
        return import_encoder(config)
    if n_mels is None:
        raise SpkverError("features.name=waveform: speech_encoder_v3 takes filterbanks; set features.name=fbank")
    return SpeechEncoderV3(n_mels=n_mels, **config.model_dump(exclude={"name"}))
