"""Encoders: filterbanks -> speaker embeddings."""

from spkver.config import schema
from spkver.models.speech_encoder_v3 import SpeechEncoderV3

__all__ = ["SpeechEncoderV3", "build_encoder"]


def build_encoder(config: schema.SpeechEncoderV3, n_mels: int) -> SpeechEncoderV3:
    """The encoder of a configuration's ``model`` section."""
    return SpeechEncoderV3(n_mels=n_mels, **config.model_dump(exclude={"name"}))
