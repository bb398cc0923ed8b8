"""Models of ``transformers`` that learnt from speech without labels, as front ends of a speaker encoder.

The outputs of all layers are summed with weights that are learnt, pooled by attentive statistics, and projected to the
embedding, as S. Chen et al., "WavLM: Large-Scale Self-Supervised Pre-Training for Full Stack Speech Processing", 2022,
compare such models on speaker verification. Needs ``pip install transformers``, and ``peft`` for LoRA.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spkver.errors import SpkverError
from spkver.models.pooling import AttentiveStatisticsPooling

# Names of the classes in transformers, and the linear layers that LoRA is put on. WavLM's attention takes the weights
# of its projections without calling them, so that LoRA there would be passed over.
_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
_KINDS = {
    "hubert": ("Hubert", ("q_proj", "v_proj")),
    "wav2vec2": ("Wav2Vec2", ("q_proj", "v_proj")),
    "wav2vec2-bert": ("Wav2Vec2Bert", ("linear_q", "linear_v")),
    "wavlm": ("WavLM", ("intermediate_dense", "output_dense")),
}


class SelfSupervised(nn.Module):
    """WavLM, wav2vec 2.0, HuBERT or w2v-BERT 2.0 with a pooling and an embedding.

    The first three take samples (``features: {name: waveform}``), w2v-BERT 80 filterbanks of a Povey window
    (``features: {window: povey}``), of which it stacks two.

    Args:
        source: what to start from: a name on the Hugging Face hub, from which transformers fetches it, or a folder.
        architecture: instead of it, the settings of such a model, which then has random weights: what a stored
            encoder is built from.
        embed_dim: dimensions of the embedding.
        pooling_hidden: width of the pooling's attention.
        lora_rank: above 0: the model stays as it is but for LoRA of that rank (E. Hu et al., 2021).
        lora_targets: names of the linear layers that get it; None: some of each layer.
        normalise: bring an utterance's samples to mean 0 and variance 1; None: as the model was trained.

    Raises:
        SpkverError: transformers or peft is missing, there is no such model, or it is of another kind.
    """

    def __init__(
        self,
        source: str | None = None,
        architecture: dict[str, Any] | None = None,
        embed_dim: int = 192,
        pooling_hidden: int = 128,
        lora_rank: int = 0,
        lora_targets: list[str] | None = None,
        normalise: bool | None = None,
    ):
        super().__init__()
        if (source is None) == (architecture is None):
            raise SpkverError("model.args: name the model to start from by source")
        self.front_end = _pretrained(source) if source else _untrained(architecture or {})
        config = self.front_end.config
        self.takes_filterbanks = config.model_type == "wav2vec2-bert"
        self.normalise = _normalises(source, config) if normalise is None else normalise
        if lora_rank:
            _add_lora(self.front_end, lora_rank, lora_targets or list(_KINDS[config.model_type][1]))
        self.layer_weights = nn.Parameter(torch.zeros(config.num_hidden_layers + 1))
        self.pooling = AttentiveStatisticsPooling(config.hidden_size, pooling_hidden)
        self.pooled_norm = nn.BatchNorm1d(self.pooling.out_features)
        self.embedding = nn.Linear(self.pooling.out_features, embed_dim, bias=False)
        self.embedding_norm = nn.BatchNorm1d(embed_dim, affine=False)
        self.stored_args = {
            "architecture": json.loads(config.to_json_string(use_diff=False)),
            "embed_dim": embed_dim,
            "pooling_hidden": pooling_hidden,
            "lora_rank": lora_rank,
            "lora_targets": lora_targets,
            "normalise": self.normalise,
        }

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Embed samples ``(batch, n_samples)``, or filterbanks ``(batch, n_frames, n_mels)``.

        Args:
            x: zero where padded.
            lengths: (batch,) samples or frames of each utterance; None: all are full.

        Returns:
            ``(batch, embed_dim)``, not of unit length.

        Raises:
            ValueError: it is the other of the two.
        """
        if x.dim() != 2 + self.takes_filterbanks:
            wanted = (
                "filterbanks (features.name=fbank)" if self.takes_filterbanks else "samples (features.name=waveform)"
            )
            raise ValueError(f"{self.front_end.config.model_type} takes {wanted}")
        hidden, mask = self._frames(
            *(self._stacked(x, lengths) if self.takes_filterbanks else self._samples(x, lengths))
        )
        pooled = self.pooling(hidden, mask)
        with torch.autocast(x.device.type, enabled=False):
            return self.embedding_norm(self.embedding(self.pooled_norm(pooled.float())))

    def _samples(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if not self.normalise:
            return x, lengths
        valid = _valid(x.shape[1], lengths, x)
        count = valid.sum(1, keepdim=True)
        mean = (x * valid).sum(1, keepdim=True) / count
        variance = ((x - mean).square() * valid).sum(1, keepdim=True) / count
        return (x - mean) * valid / (variance + 1e-7).sqrt(), lengths

    def _stacked(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Each bin brought to variance 1, then two frames as one; an odd one at the end is left out."""
        valid = _valid(x.shape[1], lengths, x)[:, :, None]
        count = valid.sum(1, keepdim=True)
        mean = (x * valid).sum(1, keepdim=True) / count
        variance = ((x - mean).square() * valid).sum(1, keepdim=True) / (count - 1)
        x = (x - mean) * valid / (variance + 1e-7).sqrt()
        return x[:, : x.shape[1] // 2 * 2].unflatten(1, (-1, 2)).flatten(2), None if lengths is None else lengths // 2

    def _frames(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The weighted sum of all layers ``(batch, n_steps, hidden)``, and its mask."""
        given = None if lengths is None else _valid(x.shape[1], lengths, x).long()
        layers = self.front_end(x, attention_mask=given, output_hidden_states=True).hidden_states
        weights = self.layer_weights.softmax(0)
        hidden = sum(weight * layer for weight, layer in zip(weights, layers))
        assert isinstance(hidden, Tensor)
        if lengths is None:
            return hidden, None
        n_steps = lengths if self.takes_filterbanks else self.front_end._get_feat_extract_output_lengths(lengths)
        return hidden, torch.arange(hidden.shape[1], device=hidden.device) < n_steps[:, None]


def _valid(n: int, lengths: Tensor | None, like: Tensor) -> Tensor:
    """``(batch, n)``: 1 where a sample or frame belongs to its utterance."""
    if lengths is None:
        return like.new_ones(len(like), n)
    return (torch.arange(n, device=like.device) < lengths[:, None]).to(like.dtype)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise SpkverError(f"model.name: cannot import transformers ({error}); pip install transformers") from None
    return transformers


def _check_kind(kind: Any, place: str) -> str:
    if kind not in _KINDS:
        raise SpkverError(f"{place}: is a model of kind {kind!r}; these are front ends here: {', '.join(_KINDS)}")
    return _KINDS[kind][0]


# Masks that are drawn outside of torch's random state would make resumed runs differ; SpecAugment has them.
_OFF = {"apply_spec_augment": False, "layerdrop": 0.0}


def _pretrained(source: str) -> Any:
    """A model with its trained weights, read by transformers without running code or pickles of the repository."""
    transformers = _transformers()
    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
        name = _check_kind(config.model_type, source)
        config.update(_OFF)
        return getattr(transformers, f"{name}Model").from_pretrained(source, config=config, weights_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SpkverError(f"model.args.source: {source} is no model that transformers can read ({reason})") from None


def _untrained(architecture: dict[str, Any]) -> Any:
    transformers = _transformers()
    name = _check_kind(architecture.get("model_type"), "model.args.architecture")
    config = getattr(transformers, f"{name}Config")(**(architecture | _OFF))
    return getattr(transformers, f"{name}Model")(config)


def _normalises(source: str | None, config: Any) -> bool:
    """As the file beside the weights says; else as those do whose first layers have no norm over time."""
    try:
        file = _transformers().utils.cached_file(source, "preprocessor_config.json")
        said = json.loads(Path(file).read_text(encoding="utf-8")).get("do_normalize")
    except (OSError, ValueError, AttributeError, TypeError):  # none there, or none that says so
        said = None
    return said if isinstance(said, bool) else getattr(config, "feat_extract_norm", "layer") == "layer"


def _add_lora(front_end: Any, rank: int, targets: list[str]) -> None:
    """Put LoRA on the linear layers of these names; nothing else of the model learns from then on."""
    try:
        import peft
    except ImportError as error:
        raise SpkverError(f"model.args.lora_rank: cannot import peft ({error}); pip install peft") from None
    if front_end.config.model_type == "wavlm" and set(targets) & set(_ATTENTION):
        raise SpkverError(
            "model.args.lora_targets: WavLM's attention passes LoRA over; name intermediate_dense and output_dense"
        )
    settings = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    try:
        peft.inject_adapter_in_model(settings, front_end)
    except ValueError as error:
        raise SpkverError(f"model.args.lora_targets: {' '.join(str(error).split())[:200]}") from None
