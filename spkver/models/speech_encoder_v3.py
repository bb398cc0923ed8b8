"""SpeechEncoderV3: filterbanks -> speaker embedding.

Read from top to bottom: front end (convolutions that keep channels x frequency apart), position,
transformer over TIME, pooling, linear embedding, L2 norm.

- An utterance's embedding does not depend on its batch mates or on padding: convolutions see zeros
  beyond an utterance's end, GroupNorm's statistics, attention and pooling leave padded frames out.
- Frequency is flattened into the projection, never averaged away: WHERE energy lies is the speaker.
- No ReLU on the embedding: it would put every pair of speakers into one orthant.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spkver.features.batch_part import BatchDropout, kept
from spkver.models.average_spectrum import AverageSpectrum
from spkver.models.group_norm import GroupNormReLU
from spkver.models.pooling import build_pooling
from spkver.models.position import build_position, rotate


class FrontEnd(nn.Module):
    """Conv2d + GroupNorm + ReLU, twice or more, then channels x frequency projected to ``d_model``.

    Args:
        n_mels: filterbank bins.
        channels: output channels of the convolutions.
        groups: groups of the GroupNorms.
        freq_strides: stride over frequency of each convolution.
        time_strides: stride over time of each convolution.
        d_model: width of a frame behind the projection.
    """

    def __init__(
        self,
        n_mels: int,
        channels: Sequence[int],
        groups: int,
        time_strides: Sequence[int],
        freq_strides: Sequence[int],
        d_model: int,
    ):
        super().__init__()
        self.time_strides = time_strides
        widths = [1, *channels]
        self.convs = nn.ModuleList(
            nn.Conv2d(n_in, n_out, 3, stride=strides, padding=1, bias=False)
            for n_in, n_out, strides in zip(widths, channels, zip(time_strides, freq_strides))
        )
        self.norms = nn.ModuleList(GroupNormReLU(groups, n_out) for n_out in channels)
        n_bins = n_mels
        for stride in freq_strides:
            n_bins = (n_bins - 1) // stride + 1
        self.projection = nn.Linear(channels[-1] * n_bins, d_model)

    def forward(self, features: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """``(batch, n_frames, n_mels)`` -> ``(batch, n_steps, d_model)`` and the mask ``(batch, n_steps)``."""
        # One input channel: both layouts of it are the same bytes; the convolution takes its layout from here.
        x = features.unsqueeze(1).contiguous(memory_format=torch.channels_last)
        if lengths is not None:
            x = x * _valid_frames(lengths, x.shape[2])[:, None, :, None]
        mask = None
        for conv, norm, stride in zip(self.convs, self.norms, self.time_strides):
            x = conv(x)
            if lengths is not None:
                lengths = (lengths - 1) // stride + 1
                mask = _valid_frames(lengths, x.shape[2])
            # Zeros beyond an utterance's end, as the next convolution's own padding would put there.
            x = norm(x, mask)
        # (batch, channels, n_steps, n_bins) -> a frame is channels x bins, in the order of the memory.
        return self.projection(x.permute(0, 2, 3, 1).flatten(2)), mask


class TransformerLayer(nn.Module):
    """Pre-norm self-attention and feed-forward over time (Xiong et al., 2020).

    ``layer_drop`` is stochastic depth (Huang et al., 2016): in training a whole branch of an item
    is left out with that probability, and the branches that stay are scaled up. ``rotary``: the attention
    knows how far apart frames stand.
    """

    def __init__(
        self, d_model: int, n_heads: int, feedforward: int, dropout: float, layer_drop: float, rotary: bool = False
    ):
        super().__init__()
        self.rotary = rotary
        self.n_heads = n_heads
        self.dropout = dropout
        self.layer_drop = layer_drop
        self.attention_norm = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.attention_out = nn.Linear(d_model, d_model)
        self.feedforward_norm = nn.LayerNorm(d_model)
        self.feedforward_in = nn.Linear(d_model, feedforward)
        self.feedforward_out = nn.Linear(feedforward, d_model)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """``x (batch, n_steps, d_model)``; ``mask (batch, 1, 1, n_steps)`` says which keys may be seen."""
        x = x + self._drop(self._attend(self.attention_norm(x), mask))
        hidden = F.gelu(self.feedforward_in(self.feedforward_norm(x)))
        return x + self._drop(self.feedforward_out(hidden))

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, n_steps, d_model = x.shape
        qkv = self.qkv(x).view(batch, n_steps, 3, self.n_heads, d_model // self.n_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        if self.rotary:
            query, key = rotate(query), rotate(key)
        seen = _attention(query, key, value, mask)
        return self.attention_out(seen.transpose(1, 2).reshape(batch, n_steps, d_model))

    def _drop(self, branch: Tensor) -> Tensor:
        """Dropout of whole channels of an item, and of the whole branch.

        A channel is dropped for all frames at once: neighbouring frames tell the same, so dropping
        single values hides nothing, and drawing one random number a value costs a quarter of a step on a CPU.
        """
        if not self.training:
            return branch
        batch, _, d_model = branch.shape
        keep = kept(batch, 1, d_model, share=1 - self.dropout, device=branch.device)
        keep_branch = kept(batch, 1, 1, share=1 - self.layer_drop, device=branch.device)
        scale = keep * keep_branch / ((1 - self.dropout) * (1 - self.layer_drop))
        return branch * scale.to(branch.dtype)


def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention; ``(batch, n_heads, n_steps, head_dim)`` each."""
    if mask is None and query.requires_grad and query.device.type == "cpu":
        # The fused kernel's backward on a CPU takes five times as long as these matrix products on crops of 2 s.
        weights = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        return weights.softmax(-1) @ value
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


class SpeechEncoderV3(nn.Module):
    """Filterbanks to L2-normalised speaker embeddings.

    Args:
        n_mels: bins of the filterbank.
        channels: output channels of the front-end convolutions.
        groups: groups of their GroupNorms.
        time_strides: stride over time of each convolution.
        freq_strides: stride over frequency of each convolution.
        d_model: width of the transformer.
        n_layers: its layers.
        n_heads: attention heads a layer.
        feedforward: width of its feed-forward part.
        dropout: share of channels dropped in each branch in training.
        layer_drop: probability that the last layer's branch is left out in training; grows linearly
            over the layers from 0.
        position: ``"sinusoidal"``, ``"convolutional"``, ``"rotary"`` or ``"none"``.
        position_kernel: frames that a convolutional position sees.
        pooling: ``"attentive_statistics"``, ``"statistics"`` or ``"mean"``.
        pooling_hidden: width of the attention's hidden layer.
        embed_dim: dimensions of the embedding.
        embedding_dropout: share of pooled values dropped in training.
        embedding_norms: ``"batch"``, ``"layer"`` or ``"none"``: of the pooled values and of the embedding.
        aggregate_layers: pool over the outputs of all layers side by side, not of the last alone
            (Zhang et al., "MFA-Conformer", Interspeech 2022): the lower ones know voices better than words.
        average_spectrum: tell every frame the utterance's average spectrum too.
        average_spectrum_dropout: share of the training crops that go without it.
    """

    def __init__(
        self,
        n_mels: int = 80,
        channels: Sequence[int] = (32, 64),
        groups: int = 8,
        time_strides: Sequence[int] = (2, 2),
        freq_strides: Sequence[int] = (2, 2),
        d_model: int = 256,
        n_layers: int = 4,
        n_heads: int = 4,
        feedforward: int = 1024,
        dropout: float = 0.1,
        layer_drop: float = 0.1,
        position: str = "convolutional",
        position_kernel: int = 31,
        pooling: str = "attentive_statistics",
        pooling_hidden: int = 128,
        embed_dim: int = 192,
        embedding_dropout: float = 0.0,
        embedding_norms: str = "batch",
        aggregate_layers: bool = True,
        average_spectrum: bool = False,
        average_spectrum_dropout: float = 0.5,
    ):
        super().__init__()
        self.embed_dim = embed_dim
        self.front_end = FrontEnd(n_mels, channels, groups, time_strides, freq_strides, d_model)
        self.average_spectrum = AverageSpectrum(n_mels, d_model, average_spectrum_dropout) if average_spectrum else None
        self.position = build_position(position, d_model, position_kernel)
        rotary = position == "rotary"
        self.layers = nn.ModuleList(
            TransformerLayer(d_model, n_heads, feedforward, dropout, layer_drop * (i + 1) / n_layers, rotary)
            for i in range(n_layers)
        )
        self.aggregate_layers = aggregate_layers
        width = d_model * n_layers if aggregate_layers else d_model
        self.norm = nn.LayerNorm(width)
        self.pooling = build_pooling(pooling, width, pooling_hidden)
        # What all utterances have in common must go, or every cosine starts near 1 and learning is slow.
        self.pooled_norm = _build_norm(embedding_norms, self.pooling.out_features, affine=True)
        self.embedding_dropout = BatchDropout(embedding_dropout)
        self.embedding = nn.Linear(self.pooling.out_features, embed_dim, bias=False)
        # Again for the embedding itself: cosines of centred embeddings tell speakers apart better.
        self.embedding_norm = _build_norm(embedding_norms, embed_dim, affine=False)

    def forward(self, features: Tensor, lengths: Tensor | None = None, average: Tensor | None = None) -> Tensor:
        """Embed a batch of utterances.

        Args:
            features: mean-normalised log-mel filterbanks ``(batch, n_frames, n_mels)``.
            lengths: valid frames of each utterance ``(batch,)``; None when all are full.
            average: the means that were subtracted ``(batch, n_mels)``, for ``average_spectrum``; else not looked at.

        Returns:
            ``(batch, embed_dim)`` float32, each of unit length.

        Raises:
            ValueError: ``average`` is missing where the encoder was built to take it.
        """
        return F.normalize(self.unnormalised(features, lengths, average), dim=1)

    def unnormalised(self, features: Tensor, lengths: Tensor | None = None, average: Tensor | None = None) -> Tensor:
        """The same before its length is brought to 1: the length is a measure of quality."""
        x, mask = self.front_end(features, lengths)
        if self.average_spectrum is not None:
            x = x + self.average_spectrum(average).to(x.dtype)
        x = self.position(x, mask)
        keys = None if mask is None else mask[:, None, None, :]
        outputs = []
        for layer in self.layers:
            x = layer(x, keys)
            outputs.append(x)
        x = torch.cat(outputs, 2) if self.aggregate_layers else x
        pooled = self.pooling(self.norm(x), mask)
        with torch.autocast(features.device.type, enabled=False):
            embedding = self.embedding(self.embedding_dropout(self.pooled_norm(pooled)))
            return self.embedding_norm(embedding)


def _build_norm(name: str, width: int, affine: bool) -> nn.Module:
    if name == "batch":
        return nn.BatchNorm1d(width, affine=affine)
    return nn.LayerNorm(width, elementwise_affine=affine) if name == "layer" else nn.Identity()


def _valid_frames(lengths: Tensor, n_frames: int) -> Tensor:
    """Mask ``(batch, n_frames)``, True where a frame belongs to its utterance."""
    return torch.arange(n_frames, device=lengths.device) < lengths.unsqueeze(1)
