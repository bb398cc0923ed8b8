"""The encoders of the race: SpeechEncoderV3 in three sizes, and its peers from their own packages.

``pip install --no-deps speechbrain hyperpyyaml wespeaker-unofficial speakerlab``; an encoder whose package is not
there is left out.
"""

import importlib.util
from collections.abc import Sequence
from typing import NamedTuple

import torch

from spkver.config import Config, load_config
from spkver.config.schema import ImportedEncoder, Model
from spkver.models import ImportedEncoder as Imported
from spkver.models import build_encoder
from spkver.models.encoder_check import checked


class Row(NamedTuple):
    """An encoder of the race.

    Args:
        title: what the table calls it.
        configuration: that comes with spkver; its section ``model`` is taken.
        model: overrides of that section.
        training: overrides of the race's training.
    """

    title: str
    configuration: str
    model: Sequence[str] = ()
    training: Sequence[str] = ()


# What conf/speechocean762.yaml has for so few speakers, and the optimizer that is V3's own.
_FEW = ["dropout", "layer_drop", "embedding_dropout", "average_spectrum_dropout"]
_FOR_FEW = [f"model.{key}={getattr(load_config('speechocean762').model, key)}" for key in _FEW]
_AVERAGE = [*_FOR_FEW, "model.average_spectrum=true"]
_MUON = ["optimizer.name=muon", "optimizer.lr=2.0e-3"]
_ECAPA_512 = ["model.args.channels=[512,512,512,512,1536]"]
_SPEECHBRAIN_RESNET = "model={name: 'speechbrain.lobes.models.ResNet:ResNet', args: {input_size: 80, lin_neurons: 192}}"

ENCODERS = {
    "v3_small": Row("SpeechEncoderV3 small", "v3_small"),
    "v3_base": Row("SpeechEncoderV3 base", "v3_base"),
    "v3_large": Row("SpeechEncoderV3 large", "v3_large"),
    "v3_muon": Row("SpeechEncoderV3 base, Muon", "v3_base", _FOR_FEW, _MUON),
    "v3_average": Row("SpeechEncoderV3 base, average", "v3_base", _AVERAGE, _MUON),
    "v3_small_average": Row("SpeechEncoderV3 small, average", "v3_small", _AVERAGE, _MUON),
    "ecapa_512": Row("ECAPA-TDNN 512 (SpeechBrain)", "encoders/ecapa_tdnn", _ECAPA_512),
    "ecapa_1024": Row("ECAPA-TDNN 1024 (SpeechBrain)", "encoders/ecapa_tdnn"),
    "speechbrain_resnet": Row("ResNet (SpeechBrain)", "base", [_SPEECHBRAIN_RESNET]),
    "wespeaker_resnet34": Row("ResNet34 (WeSpeaker)", "encoders/resnet34", ["model.args.embed_dim=192"]),
    "campplus": Row("CAM++ (3D-Speaker)", "encoders/campplus", ["model.args.embedding_size=192"]),
}


def model_of(name: str) -> Model:
    """The section ``model`` of a row."""
    row = ENCODERS[name]
    return load_config(row.configuration, row.model).model


def is_installed(name: str) -> bool:
    """Whether the package of a row's encoder is there."""
    model = model_of(name)
    return not isinstance(model, ImportedEncoder) or importlib.util.find_spec(model.name.partition(".")[0]) is not None


def untrained(config: Config) -> torch.nn.Module:
    """The encoder of a configuration, ready to embed."""
    encoder = build_encoder(config.model, config.features.n_mels)
    if isinstance(encoder, Imported):
        checked(config, encoder)
    return encoder
