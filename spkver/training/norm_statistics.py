"""The running statistics of BatchNorms: taken back after a bad step, and renewed for a finished model.

A BatchNorm takes a batch into its statistics in the forward pass, before anybody knows whether the step is any good.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from spkver.config import Config
from spkver.data.audio import read_audio, wrap_to
from spkver.data.directory import DataDirectory
from spkver.data.variants import ORIGINAL
from spkver.embedding.extractor import Extractor
from spkver.errors import SpkverError
from spkver.models import Encoder, SpeechEncoderV3
from spkver.training.distributed import Ranks
from spkver.training.finetune import freeze

# Crops that an imported encoder is given at once when its statistics are renewed.
_RENEWED_AT_ONCE = 64


class NormStatistics:
    """The statistics of all BatchNorms in some modules, kept so that they can be taken back: a few thousand numbers."""

    def __init__(self, *modules: nn.Module):
        norms = [norm for module in modules for norm in batch_norms(module)]
        self._buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
        self._kept: list[Tensor] = []

    def keep(self) -> None:
        """Remember them as they are."""
        self._kept = [buffer.clone() for buffer in self._buffers]

    def take_back_unless(self, finite: Tensor) -> None:
        """Make them as they were when ``keep`` was called, but where the step was ``finite`` ()."""
        for buffer, kept in zip(self._buffers, self._kept):
            buffer.copy_(torch.where(finite, buffer, kept))

    def are_finite(self) -> Tensor | bool:
        """() bool, on the device of the statistics: their variance overflows where every gradient is still finite."""
        return not self._buffers or torch.stack([buffer.isfinite().all() for buffer in self._buffers]).all()


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """The BatchNorms in a module, in the order of their definition."""
    return [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]


def renew_statistics(encoder: Encoder, directory: DataDirectory, config: Config, ranks: Ranks | None = None) -> None:
    """Let every BatchNorm of the encoder hold the statistics of clean training utterances.

    Averaged weights need statistics of their own (Izmailov et al., UAI 2018), and those of the training
    were those of short, masked, augmented crops: embeddings of whole utterances would not be centred.
    Frozen ones stay. `SpeechEncoderV3` is given whole utterances. An imported encoder may have many BatchNorms that
    see one another; it is given the middle of each utterance, as long as a crop, batch by batch.

    Args:
        encoder: changed in place.
        directory: training utterances, of which ``training.statistics_utterances`` are drawn.
        config: of the run.
        ranks: the processes that share the utterances, and all get the same statistics; None: this one alone.

    Raises:
        SpkverError: a file cannot be read, or the weights are damaged.
    """
    frozen_modules = freeze(encoder, config.optimizer.freeze)
    norms = [norm for norm in batch_norms(encoder) if norm not in frozen_modules]
    n = min(config.training.statistics_utterances, len(directory.utterances))
    places = np.random.default_rng([config.seed, 0xBA7C]).choice(len(directory.utterances), n, replace=False)
    chosen = directory.at(np.sort(places))
    if ranks is None or n < ranks.size:  # too few to be shared
        ranks = Ranks()
    if not isinstance(encoder, SpeechEncoderV3):
        _renew_by_crops(encoder, norms, chosen, config, ranks)
        return
    while norms:
        seen = _inputs(encoder, norms, chosen, config, ranks)
        # What a later norm sees depends on the earlier ones' statistics; only the embedding's follows from the
        # pooled values without another pass over the audio.
        first = next(iter(seen))
        _hold_statistics(first, seen[first])
        norms.remove(first)
        last = encoder.embedding_norm
        if first is encoder.pooled_norm and isinstance(last, _BatchNorm) and last in norms:
            with torch.no_grad():
                _hold_statistics(last, encoder.embedding(first.eval()(seen[first])))
            norms.remove(last)


def _renew_by_crops(
    encoder: Encoder, norms: list[_BatchNorm], directory: DataDirectory, config: Config, ranks: Ranks
) -> None:
    """The mean over batches of what the norms see, all of them in one pass."""
    if not norms:
        return
    extractor = Extractor(encoder, config, ORIGINAL)
    n_samples = round(config.data.crop_seconds * config.data.sample_rate)
    momenta = [norm.momentum for norm in norms]
    n_batches = -(-len(directory.utterances) // _RENEWED_AT_ONCE)
    # As many in each batch as may be: a last one of a single item has no variance.
    batches = np.array_split(np.array(list(directory.utterances), dtype=object), n_batches)[ranks.rank :: ranks.size]
    with ranks.together(), extractor.evaluating(), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # all batches count alike
            norm.train()
        for utterances in batches:
            waveforms = (read_audio(utterance.path, extractor.sample_rate) for utterance in utterances)
            crops = np.stack([_middle_crop(waveform, n_samples) for waveform in waveforms])
            features, _, average = extractor.input(torch.from_numpy(crops).to(extractor.device))
            encoder(features, average=average)
        for norm in norms:
            norm.eval()
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        # From the means over each process's batches to that over all.
        for name in ("running_mean", "running_var"):
            ranks.total(norm.get_buffer(name).mul_(len(batches) / n_batches))
        norm.get_buffer("num_batches_tracked").fill_(n_batches)
        if not all(buffer.isfinite().all() for buffer in norm.buffers(recurse=False)):
            raise SpkverError("a BatchNorm's statistics of training utterances are not finite: the weights are damaged")


def _middle_crop(samples: np.ndarray, n: int) -> np.ndarray:
    start = max(len(samples) - n, 0) // 2
    return np.asarray(wrap_to(samples[start : start + n], n), np.float32)


def _inputs(
    encoder: SpeechEncoderV3, norms: list[_BatchNorm], directory: DataDirectory, config: Config, ranks: Ranks
) -> dict[_BatchNorm, Tensor]:
    """What norms are given for whole utterances, each ``(n_utterances, n_features)``, in the order of their use."""
    seen: dict[_BatchNorm, list[Tensor]] = {}

    def keep(norm: _BatchNorm, inputs: tuple[Tensor]) -> None:
        seen.setdefault(norm, []).append(inputs[0])

    hooks = [norm.register_forward_pre_hook(keep) for norm in norms]
    try:
        extractor = Extractor(encoder, config, ORIGINAL)
        with ranks.together():
            extractor.embed_utterances(directory.utterances[ranks.rank :: ranks.size], "statistics")
    finally:
        for hook in hooks:
            hook.remove()
    return {norm: ranks.interleaved(torch.cat(inputs), len(directory.utterances)) for norm, inputs in seen.items()}


@torch.no_grad()
def _hold_statistics(norm: _BatchNorm, values: Tensor) -> None:
    if not values.isfinite().all():
        raise SpkverError("training utterances have embeddings that are not finite: the weights are damaged")
    norm.get_buffer("running_mean").copy_(values.mean(0))
    norm.get_buffer("running_var").copy_(values.var(0))
