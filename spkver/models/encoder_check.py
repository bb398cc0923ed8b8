"""What can be known of an imported encoder before it is trained: that it embeds, and what it does with padding."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from spkver.config import Config, schema
from spkver.errors import SpkverError
from spkver.models.imported_encoder import ImportedEncoder, said

_SHORTEST_SECONDS = 0.2  # what is shorter is repeated up to it before it is embedded
# Of embeddings of unit length: what float32 may differ in from one batch to another.
_TOLERANCE = 1e-4


def checked(config: Config, encoder: ImportedEncoder) -> tuple[schema.ImportedEncoder, str]:
    """Send noise of several lengths through an encoder, and set its ``embed_dim`` and ``masks_padding``.

    Args:
        config: of a training.
        encoder: of its section ``model``.

    Returns:
        The section, complete: what was found, and the class's ``stored_args`` in place of its arguments where it has
        such (they build the same network without what it was started from); and a line on what was found.

    Raises:
        SpkverError: it does not give finite ``(batch, embed_dim)``, the dimensions depend on the length, an embedding
            depends on its batch mates or not on its input, or it is not what the section says.
    """
    section = config.model
    assert isinstance(section, schema.ImportedEncoder)
    was_training = encoder.training
    try:
        with torch.no_grad():
            embed_dim = _check_embeddings(section.name, encoder.eval(), config)
            encoder.embed_dim = embed_dim
            change = _change_by_padding(encoder, config)
    finally:
        encoder.train(was_training)
    masks = change is not None and change < _TOLERANCE
    if section.embed_dim not in (None, embed_dim):
        raise SpkverError(f"model.embed_dim: is {section.embed_dim}, and {section.name} gives {embed_dim} dimensions")
    if section.masks_padding and not masks:
        raise SpkverError(f"model.masks_padding: is true, but {_on_padding(False, change)}; leave it at null")
    encoder.masks_padding = masks and section.masks_padding is not False
    found = {"embed_dim": embed_dim, "masks_padding": encoder.masks_padding}
    args = getattr(encoder.network, "stored_args", section.args)
    line = f"{section.name}: {embed_dim} dimensions; {_on_padding(encoder.masks_padding, change)}"
    return section.model_copy(update=found | {"args": args}), line


def _on_padding(masks: bool, change: float | None) -> str:
    if masks:
        return "utterances of a batch are padded and masked"
    if change is None:
        why = "its forward takes no 'lengths'"
    else:
        why = "padding changes its embeddings" if change < math.inf else "its 'lengths' are no numbers of frames"
    return f"only utterances of equal length are embedded together: {why}"


def _check_embeddings(name: str, encoder: ImportedEncoder, config: Config) -> int:
    """Embeddings of noise are what they should be; returns their dimensions."""
    crop = config.data.crop_seconds
    dimensions = {s: _dimensions(name, encoder, _noise(config, 3, s)) for s in (crop, 1.3 * crop, _SHORTEST_SECONDS)}
    if len(set(dimensions.values())) > 1:
        listed = ", ".join(f"{size} for {seconds:g} s" for seconds, size in dimensions.items())
        raise SpkverError(f"model.name: {name} does not pool over time, its dimensions depend on the length: {listed}")
    return dimensions[crop]


def _dimensions(name: str, encoder: ImportedEncoder, noise: Tensor) -> int:
    """The dimensions of embeddings of three items, after a look at these."""
    try:
        output, alone = encoder.network(noise), encoder.network(noise[1:2])
    except Exception as error:  # whatever somebody else's code raises
        kind = "features" if noise.dim() == 3 else "samples"
        raise SpkverError(f"model.name: {name} fails on {kind} of shape {tuple(noise.shape)} ({said(error)})") from None
    last, alone = (each[-1] if isinstance(each, tuple) else each for each in (output, alone))
    if not isinstance(last, Tensor) or not isinstance(alone, Tensor):
        raise SpkverError(f"model.name: {name} gives no tensor but a {type(last).__name__}")
    shape = tuple(last.shape)
    if len(shape) < 2 or shape[0] != len(noise) or max(shape[1:]) != last[0].numel() or not last.is_floating_point():
        raise SpkverError(
            f"model.name: {name} gives {last.dtype} of shape {shape} for {tuple(noise.shape)}, not (3, embed_dim)"
        )
    if not last.isfinite().all():
        raise SpkverError(f"model.name: {name} gives values that are not finite for noise of {tuple(noise.shape)}")
    first, second, _ = F.normalize(last.flatten(1), dim=1)
    if (second - F.normalize(alone.flatten(1), dim=1)).abs().max() > _TOLERANCE:
        raise SpkverError(
            f"model.name: an embedding of {name} changes with what else is in the batch; is the first dimension the "
            "batch throughout?"
        )
    if torch.equal(first, second):
        raise SpkverError(f"model.name: {name} gives the same embedding whatever its input")
    return last[0].numel()


def _change_by_padding(encoder: ImportedEncoder, config: Config) -> float | None:
    """How much padding changes an embedding at most; None where the network takes no lengths."""
    if not encoder.takes_lengths:
        return None
    noise = _noise(config, 2, config.data.crop_seconds)
    n = noise.shape[1] * 2 // 3
    lengths = torch.tensor([n, noise.shape[1]])
    alone = encoder(noise[:1, :n])
    noise[0, n:] = 0
    try:
        padded = ImportedEncoder(encoder.network, encoder.embed_dim, masks_padding=True)(noise, lengths)
    except Exception:  # lengths of another kind, as shares of the longest
        return math.inf
    return float((padded[:1] - alone).abs().max())


def _noise(config: Config, batch: int, seconds: float) -> Tensor:
    """Input of an encoder for so many seconds, the same each time."""
    generator = torch.Generator().manual_seed(0)
    n_samples = round(seconds * config.data.sample_rate)
    if isinstance(config.features, schema.Waveform):
        return 0.1 * torch.randn(batch, n_samples, generator=generator)
    shift = round(config.features.frame_shift_seconds * config.data.sample_rate)
    length = round(config.features.frame_length_seconds * config.data.sample_rate)
    return torch.randn(batch, max(1 + (n_samples - length) // shift, 1), config.features.n_mels, generator=generator)
