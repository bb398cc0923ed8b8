"""The encoders of the race: SpeechEncoderV3 in three sizes, and its peers from their own packages.

``pip install --no-deps speechbrain hyperpyyaml wespeaker-unofficial speakerlab``; an encoder whose package is not
there is left out.
"""

import sys
import types
from importlib.metadata import files
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spkver.config import Config, load_config
from spkver.models import build_encoder

CONF = Path(__file__).resolve().parents[2] / "conf"
EMBED_DIM = 192


class Peer(nn.Module):
    """Another toolkit's network, used as SpeechEncoderV3 is: ``(batch, n_frames, n_mels)`` -> unit embeddings.

    Its toolkit embeds utterances of different lengths one by one; so does this.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.embed_dim = EMBED_DIM

    def forward(self, features: Tensor, lengths: Tensor | None = None, average: Tensor | None = None) -> Tensor:
        return F.normalize(self.unnormalised(features, lengths), dim=1)

    def unnormalised(self, features: Tensor, lengths: Tensor | None = None, average: Tensor | None = None) -> Tensor:
        if lengths is None:
            return self._embed(features)
        return torch.cat([self._embed(item[None, :n]) for item, n in zip(features, lengths.tolist())])

    def _embed(self, features: Tensor) -> Tensor:
        out = self.network(features)
        out = out[-1] if isinstance(out, tuple) else out
        return out.view(len(features), -1).float()


def _v3(conf: str, config: Config, *overrides: str) -> nn.Module:
    return build_encoder(load_config(CONF / conf, overrides).model, config.features.n_mels)


def _v3_for_few(conf: str, config: Config, *overrides: str) -> nn.Module:
    """With what speechocean762.yaml has for so few speakers."""
    recipe = load_config(CONF / "speechocean762.yaml").model
    keys = ("dropout", "layer_drop", "embedding_dropout", "average_spectrum", "average_spectrum_dropout")
    return _v3(conf, config, *(f"model.{key}={getattr(recipe, key)}" for key in keys), *overrides)


def _ecapa(channels: int, config: Config) -> nn.Module:
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    widths = [channels] * 4 + [3 * channels]
    return Peer(ECAPA_TDNN(config.features.n_mels, lin_neurons=EMBED_DIM, channels=widths))


def _speechbrain_resnet(config: Config) -> nn.Module:
    from speechbrain.lobes.models.ResNet import ResNet

    return Peer(ResNet(config.features.n_mels, lin_neurons=EMBED_DIM))


def _wespeaker_resnet34(config: Config) -> nn.Module:
    # Without its __init__, which imports what --no-deps leaves out.
    (init,) = [file for file in files("wespeaker-unofficial") if file.as_posix() == "wespeaker/__init__.py"]
    package = types.ModuleType("wespeaker")
    package.__path__ = [str(Path(init.locate()).parent)]
    sys.modules.setdefault("wespeaker", package)
    from wespeaker.models.resnet import ResNet34

    return Peer(ResNet34(config.features.n_mels, EMBED_DIM))


def _campplus(config: Config) -> nn.Module:
    from speakerlab.models.campplus.DTDNN import CAMPPlus

    # Its checkpointing saves memory by computing twice; without it it is faster.
    return Peer(CAMPPlus(config.features.n_mels, EMBED_DIM, memory_efficient=False))


# Of the training of a row: V3 with the optimizer and the dropout that are its own for so few speakers.
_MUON = ["optimizer.name=muon", "optimizer.lr=2.0e-3"]
OVERRIDES = {"v3_muon": _MUON, "v3_average": _MUON, "v3_small_average": _MUON}

# The name of a row, what the table calls it, and how it is built.
ENCODERS = {
    "v3_small": ("SpeechEncoderV3 small", lambda config: _v3("v3_small.yaml", config)),
    "v3_base": ("SpeechEncoderV3 base", lambda config: _v3("v3_base.yaml", config)),
    "v3_large": ("SpeechEncoderV3 large", lambda config: _v3("v3_large.yaml", config)),
    "v3_muon": (
        "SpeechEncoderV3 base, Muon",
        lambda config: _v3_for_few("v3_base.yaml", config, "model.average_spectrum=false"),
    ),
    "v3_average": ("SpeechEncoderV3 base, average", lambda config: _v3_for_few("v3_base.yaml", config)),
    "v3_small_average": (
        "SpeechEncoderV3 small, average",
        lambda config: _v3_for_few("v3_small.yaml", config),
    ),
    "ecapa_512": ("ECAPA-TDNN 512 (SpeechBrain)", lambda config: _ecapa(512, config)),
    "ecapa_1024": ("ECAPA-TDNN 1024 (SpeechBrain)", lambda config: _ecapa(1024, config)),
    "speechbrain_resnet": ("ResNet (SpeechBrain)", _speechbrain_resnet),
    "wespeaker_resnet34": ("ResNet34 (WeSpeaker)", _wespeaker_resnet34),
    "campplus": ("CAM++ (3D-Speaker)", _campplus),
}
