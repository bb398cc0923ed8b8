"""Any ``torch.nn.Module`` of any package as an encoder: ``model: {name: package.module:Class, args: {..}}``.

Its ``forward`` takes features ``(batch, n_frames, n_mels)``, or samples ``(batch, n_samples)`` with
``features: {name: waveform}``, and optionally ``lengths (batch,)``, how many of these belong to each item. It gives
``(batch, embed_dim)``, or a tuple whose last is that; embeddings need not be of unit length.

To name a class is to run its code. Who trains names it in a configuration of their own. A model folder may come from
anybody: the class that it names is imported only if its module is in `KNOWN_MODULES`, or if its package is named in the
environment variable ``SPKVER_TRUST``.
"""

import difflib
import importlib
import importlib.machinery
import inspect
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from spkver.config import schema
from spkver.errors import SpkverError

# Modules that build networks and do nothing else, whatever their arguments are.
KNOWN_MODULES = frozenset(
    {
        "spkver.models.self_supervised",
        "speakerlab.models.campplus.DTDNN",
        "speakerlab.models.ecapa_tdnn.ECAPA_TDNN",
        "speakerlab.models.eres2net.ERes2Net",
        "speakerlab.models.eres2net.ERes2NetV2",
        "speechbrain.lobes.models.ECAPA_TDNN",
        "speechbrain.lobes.models.ResNet",
        "speechbrain.lobes.models.Xvector",
        "wespeaker.models.campplus",
        "wespeaker.models.ecapa_tdnn",
        "wespeaker.models.eres2net",
        "wespeaker.models.redimnet",
        "wespeaker.models.repvgg",
        "wespeaker.models.res2net",
        "wespeaker.models.resnet",
        "wespeaker.models.samresnet",
        "wespeaker.models.tdnn",
    }
)
TRUST = "SPKVER_TRUST"


class ImportedEncoder(nn.Module):
    """A network of another package, used as `SpeechEncoderV3` is. Its weights' names begin with ``network.``.

    Args:
        network: see the module's docstring.
        embed_dim: dimensions of the embeddings that it gives.
        masks_padding: it takes ``lengths``, and padding changes nothing; otherwise utterances of a batch are embedded
            together only where they are equally long.
    """

    def __init__(self, network: nn.Module, embed_dim: int = 0, masks_padding: bool = False):
        super().__init__()
        self.network = network
        self.embed_dim = embed_dim
        self.masks_padding = masks_padding

    @property
    def takes_lengths(self) -> bool:
        """Whether the network's ``forward`` has such an argument."""
        return "lengths" in inspect.signature(self.network.forward).parameters

    def forward(self, features: Tensor, lengths: Tensor | None = None, average: Tensor | None = None) -> Tensor:
        """Embed a batch of utterances.

        Args:
            features: ``(batch, n_frames, n_mels)``, or samples ``(batch, n_samples)``.
            lengths: of each utterance ``(batch,)``; None when all are full.
            average: not looked at.

        Returns:
            ``(batch, embed_dim)`` float32, each of unit length.
        """
        return F.normalize(self.unnormalised(features, lengths, average), dim=1)

    def unnormalised(self, features: Tensor, lengths: Tensor | None = None, average: Tensor | None = None) -> Tensor:
        """The same as the network gives it."""
        if lengths is None:
            return self._embed(self.network(features))
        if self.masks_padding:
            return self._embed(self.network(features, lengths=lengths))
        embeddings = features.new_zeros(len(features), self.embed_dim)
        for length in lengths.unique().tolist():
            places = (lengths == length).nonzero()[:, 0]
            embeddings[places] = self._embed(self.network(features[places, :length]))
        return embeddings

    def _embed(self, output: Tensor | tuple[Tensor, ...]) -> Tensor:
        last = output[-1] if isinstance(output, tuple) else output
        return last.flatten(1).float()  # some give (batch, 1, embed_dim) or (batch, embed_dim, 1)


def import_encoder(config: schema.ImportedEncoder) -> ImportedEncoder:
    """Import a class and build it.

    Raises:
        SpkverError: it is not there, does not take the arguments, or gives no ``torch.nn.Module``.
    """
    builder = _import(config.name)
    try:
        network = builder(**config.args)
    except SpkverError:
        raise
    except Exception as error:  # whatever somebody else's code raises
        raise SpkverError(f"model.args: {config.name} does not take {_shown(config.args)} ({said(error)})") from None
    if not isinstance(network, nn.Module):
        raise SpkverError(f"model.name: {config.name} gives no torch.nn.Module but a {type(network).__name__}")
    return ImportedEncoder(network, config.embed_dim or 0, bool(config.masks_padding))


def require_trust(config: schema.Model, source: Path) -> None:
    """Refuse to run code that a stored model names, unless it is known or its user trusts it.

    Raises:
        SpkverError: how to trust it.
    """
    if not isinstance(config, schema.ImportedEncoder):
        return
    module = config.name.partition(":")[0]
    package = module.partition(".")[0]
    if module in KNOWN_MODULES or package in os.environ.get(TRUST, "").split(","):
        return
    raise SpkverError(
        f"{source}: its encoder is the code of {config.name}, which spkver does not know; if you trust that package, "
        f"set {TRUST}={package} in the environment"
    )


def said(error: BaseException) -> str:
    """An error of somebody else's code in a line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) < 300 else f"{text[:297]}..."


def _import(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    try:
        module = _import_module(module_name)
    except Exception as error:
        raise SpkverError(
            f"model.name: cannot import {module_name} ({said(error)}); install its package, or name its folder in "
            "PYTHONPATH"
        ) from None
    builder = getattr(module, attribute, None)
    package = module_name.partition(".")[0]
    # What a module only imports itself may be anything, as `os.system`.
    if not callable(builder) or str(builder.__module__).partition(".")[0] != package:
        raise SpkverError(
            f"model.name: {module_name} has no class '{attribute}' of its own{_nearest(module, attribute)}"
        )
    return builder


def _import_module(name: str) -> types.ModuleType:
    """Import a module, also where only the ``__init__`` of its package needs what is not installed.

    A toolkit's ``__init__`` may import its command line with all that this needs (WeSpeaker's does), of which a
    network needs nothing.
    """
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        spec = importlib.machinery.PathFinder.find_spec(package)
        is_missing_itself = f"{name}.".startswith(f"{error.name}.")
        if is_missing_itself or package == name or spec is None or spec.submodule_search_locations is None:
            raise
    bare = types.ModuleType(package)
    bare.__path__ = list(spec.submodule_search_locations)
    bare.__spec__ = spec
    sys.modules[package] = bare
    try:
        return importlib.import_module(name)
    except BaseException:
        del sys.modules[package]
        raise


def _nearest(module: types.ModuleType, attribute: str) -> str:
    names = [name for name, value in vars(module).items() if callable(value) and name != attribute]
    near = difflib.get_close_matches(attribute, names, 1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def _shown(args: dict[str, Any]) -> str:
    text = ", ".join(f"{key}={value!r}" for key, value in args.items())
    return f"({text if len(text) < 100 else f'{text[:97]}...'})"
