"""What a configuration holds: every section and key, with its type and limits.

There are no default values here: each stands in ``conf/base.yaml``. Keys that need more words than
their name have a comment; units are in the names.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]  # something is left
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
PerConvolution = Annotated[list[Count], Field(min_length=2)]


def _ordered(pair: list) -> list:
    if len(pair) != 2 or pair[0] > pair[1]:
        raise ValueError("must be [lowest, highest]")
    return pair


def _recorded_first(factors: list) -> list:
    if factors[0] != 1.0 or len(set(factors)) < len(factors):
        raise ValueError("must begin with 1.0 and name no factor twice")
    return factors


def _as_recorded_first(views: list) -> list:
    distinct = len({tuple(view) for view in views}) == len(views)
    if views[0] != [1.0, 1.0] or not distinct or any(len(view) != 2 for view in views):
        raise ValueError("must hold pairs [speed factor, formant factor], first [1.0, 1.0], none of them twice")
    return views


Factor = Annotated[float, Field(ge=0.1, le=10)]
Factors = Annotated[list[Factor], Field(min_length=1), AfterValidator(_recorded_first)]
Views = Annotated[list[list[Factor]], Field(min_length=1), AfterValidator(_as_recorded_first)]
Decibels = Annotated[list[Annotated[float, Field(ge=-100, le=100)]], AfterValidator(_ordered)]
Seconds = Annotated[list[Annotated[float, Field(gt=0, le=10)]], AfterValidator(_ordered)]
PositiveRange = Annotated[list[Positive], AfterValidator(_ordered)]
CountRange = Annotated[list[Count], AfterValidator(_ordered)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Data(Section):
    sample_rate: Count  # Hz
    crop_seconds: Annotated[float, Field(ge=0.05)]
    held_out_speakers: CountOrZero  # training speakers kept aside for the EER after each epoch
    held_out_nontargets: Count  # at most so many of their nontarget trials
    max_unusable_share: Probability  # of utterances that may be empty, silent or unreadable
    workers: CountOrZero  # processes that read and augment ahead
    cache_gigabytes: NotNegative  # decoded training audio kept in memory where all of it fits


class Batch(Section):
    speakers: Count
    utterances: Count  # of each speaker


class Noise(Section):
    probability: Probability
    list: str | None  # `utt path`, a noise recording a line
    snr_db: Decibels


class Babble(Section):
    probability: Probability
    voices: CountRange
    snr_db: Decibels


class Reverb(Section):
    probability: Probability
    list: str | None  # `utt path`, a room impulse response a line; null: simulated
    rt60_seconds: Seconds


class SpecAugment(Section):
    probability: Probability
    time_masks: CountOrZero
    time_frames: CountOrZero
    freq_masks: CountOrZero
    freq_bins: CountOrZero


class Augment(Section):
    speed_factors: Factors  # each makes new speakers; the first is 1.0
    formant_factors: Factors  # each makes new speakers of every speed; the first is 1.0
    noise: Noise
    babble: Babble
    reverb: Reverb
    specaugment: SpecAugment


class Features(Section):
    n_mels: Count
    frame_length_seconds: Positive
    frame_shift_seconds: Positive
    window: Literal["hamming", "povey"]
    low_hz: NotNegative
    high_hz: Positive | None  # null: half the sample rate
    dither: NotNegative
    formant_envelope_hz: Positive | None  # null: a formant factor stretches the whole spectrum, harmonics too


class SpeechEncoderV3(Section):
    name: Literal["speech_encoder_v3"]
    channels: PerConvolution
    groups: Count
    time_strides: PerConvolution
    freq_strides: PerConvolution
    d_model: Count
    n_layers: Count
    n_heads: Count
    feedforward: Count
    dropout: Share
    layer_drop: Share
    position: Literal["sinusoidal", "convolutional", "rotary", "none"]
    position_kernel: Count
    pooling: Literal["attentive_statistics", "statistics", "mean"]
    pooling_hidden: Count
    embed_dim: Count
    embedding_dropout: Share
    embedding_norms: Literal["batch", "layer", "none"]  # of the pooled values and of the embedding
    aggregate_layers: bool  # pool over the outputs of all layers, not of the last alone
    average_spectrum: bool  # give the encoder the spectrum that mean normalisation takes away
    average_spectrum_dropout: Probability  # of a training crop, that it goes without it

    @model_validator(mode="after")
    def _widths_divide(self):
        for name in ("time_strides", "freq_strides"):
            if len(getattr(self, name)) != len(self.channels):
                raise ValueError(f"{name}: must have one value for each of channels {self.channels}")
        if self.d_model % self.n_heads:
            raise ValueError(f"n_heads: must divide d_model {self.d_model}")
        if self.position == "rotary" and self.d_model // self.n_heads % 2:
            raise ValueError(f"n_heads: must leave an even width of d_model {self.d_model} for position rotary")
        for channels in self.channels:
            if channels % self.groups:
                raise ValueError(f"groups: must divide channels {self.channels}")
        if self.position_kernel % 2 == 0:
            raise ValueError("position_kernel: must be odd")
        return self


class Softmax(Section):
    name: Literal["softmax"]


class NormFace(Section):
    name: Literal["normface"]
    scale: Positive


class ArcMargin(Section):
    name: Literal["arc_margin"]
    scale: Positive
    margin: NotNegative  # radians, at the end of the margin schedule
    easy_margin: bool


class IntertopkSubcenter(Section):
    name: Literal["intertopk_subcenter"]
    scale: Positive
    margin: NotNegative  # radians, at the end of the margin schedule
    easy_margin: bool
    K: Count  # sub-centers a speaker
    mp: NotNegative  # radians, penalty of the nearest other speakers
    k_top: CountOrZero  # how many of them
    do_lm: bool  # large-margin fine-tuning: no penalty


Head = Annotated[Softmax | NormFace | ArcMargin | IntertopkSubcenter, Field(discriminator="name")]


class Optimizer(Section):
    name: Literal["muon", "adamw", "adam", "radam", "nadam", "sgd"]
    lr: Positive
    weight_decay: NotNegative
    betas: Annotated[list[Share], Field(min_length=2, max_length=2)]
    momentum: Share  # of sgd, and of muon's matrices
    freeze: list[str]  # patterns of the encoder's weights and statistics that stay as they are
    lr_factors: dict[str, Positive]  # pattern of the encoder's weights -> factor of lr; the last that matches counts


class LearningRateSchedule(Section):
    name: Literal["cosine", "exponential", "constant"]
    warmup_epochs: NotNegative
    final_lr: NotNegative

    @model_validator(mode="after")
    def _exponential_never_reaches_zero(self):
        if self.name == "exponential" and self.final_lr == 0:
            raise ValueError("final_lr: must be above 0 in an exponential schedule")
        return self


class MarginSchedule(Section):
    start_epoch: NotNegative  # until then the margin is `initial`
    end_epoch: NotNegative  # from then on it is head.margin
    initial: NotNegative

    @model_validator(mode="after")
    def _ends_after_it_starts(self):
        if self.end_epoch < self.start_epoch:
            raise ValueError(f"end_epoch: must not lie before start_epoch {self.start_epoch}")
        return self


class Training(Section):
    epochs: Count
    clip_norm: Positive  # over encoder and head together
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "bfloat16", "float32"]
    threads: CountOrZero  # 0: what torch chooses
    chunked_head_rows: Count  # from so many weight rows (classes x K) on, the loss is computed chunk by chunk
    chunked_head_products: Literal["float32", "bfloat16"]  # .. with matrix products of this type
    sampled_share: Annotated[float, Field(gt=0, le=1)]  # of the classes that a step compares with; 1: all
    keep_last: Count  # checkpoints of the last epochs, beside the best
    average_last: Count  # checkpoints that make the final model
    statistics_utterances: Annotated[int, Field(ge=2)]  # whole ones, for the averaged model's BatchNorms
    checkpoint_minutes: Positive  # between checkpoints within an epoch
    max_skipped_in_a_row: Count  # non-finite steps before training gives up

    @model_validator(mode="after")
    def _keeps_what_it_averages(self):
        if self.average_last > self.keep_last:
            raise ValueError(f"average_last: must not be above keep_last {self.keep_last}")
        return self


class Init(Section):
    required: bool  # a run without a model to start from is refused
    head: Literal["keep", "rebuild"]  # keep the rows of speakers that the model knows by name; rebuild: none
    utterances: Count  # at most so many make the centre of a new class
    subcenter_spread: NotNegative  # tangent of the angle between a centre and its further sub-centers


class Snapshots(Section):
    speakers: CountOrZero  # at most so many training and so many held-out speakers; 0: no snapshots
    utterances: Count  # at most so many of each


class ScoreNorm(Section):
    method: Literal["z", "t", "s", "as"]
    top_n: Annotated[int, Field(ge=2)]  # cohort speakers nearest to an utterance; "as" alone takes so few
    centre: bool  # subtract the mean of the training speakers from every embedding


class Plda(Section):
    lda_dim: Count | None  # null: no LDA
    iterations: Count  # of EM
    adapt_within: Probability  # share of the variance that other data has too much, given to speech of one speaker
    adapt_between: Probability  # .. and given to what tells speakers apart


class Calibration(Section):
    p_target: Annotated[float, Field(gt=0, lt=1)]  # prior that the objective is weighted for
    quality: list[Literal["duration", "magnitude", "cohort_mean"]]  # measures beside the score
    regularisation: Positive
    max_nontargets: Count  # trials of the held-out speakers, of each kind
    joined_pairs: CountOrZero  # about so many pairs of recordings are joined of their utterances; 0: none
    joined_seconds: PositiveRange  # lengths that these are cut to


class Evaluation(Section):
    p_targets: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1)]
    bootstrap: CountOrZero  # resamplings of the speakers for the intervals; 0: no intervals


class Scoring(Evaluation):
    batch_seconds: Positive  # audio embedded at once
    max_seconds: Positive  # of an utterance that are used; of a longer one, of its speech, from the middle
    views: Views  # that an utterance is embedded in, see spkver/data/variants.py
    norm: ScoreNorm
    plda: Plda
    calibration: Calibration


class Config(Section):
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    data: Data
    batch: Batch
    augment: Augment
    features: Features
    model: SpeechEncoderV3
    head: Head
    optimizer: Optimizer
    lr_schedule: LearningRateSchedule
    margin_schedule: MarginSchedule
    training: Training
    init: Init
    snapshots: Snapshots
    scoring: Scoring
