"""What a configuration holds: every section and key, with its type, its limits and its default value.

Defaults stand here and nowhere else; ``conf/base.yaml`` shows them to those who read YAML (a test holds the two
together). Keys that need more words than their name have a comment; units are in the names.
"""

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    StringConstraints,
    Tag,
    model_validator,
)

Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]  # something is left
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
PerConvolution = Annotated[list[Count], Field(min_length=2)]


Number = TypeVar("Number", int, float)


def _ordered(pair: list[Number]) -> list[Number]:
    if len(pair) != 2 or pair[0] > pair[1]:
        raise ValueError("must be [lowest, highest]")
    return pair


def _recorded_first(factors: list[float]) -> list[float]:
    if factors[0] != 1.0 or len(set(factors)) < len(factors):
        raise ValueError("must begin with 1.0 and name no factor twice")
    return factors


def _original_first(variants: list[list[float]]) -> list[list[float]]:
    distinct = len({tuple(variant) for variant in variants}) == len(variants)
    if variants[0] != [1.0, 1.0] or not distinct or any(len(variant) != 2 for variant in variants):
        raise ValueError("must hold pairs [speed factor, formant factor], first [1.0, 1.0], none of them twice")
    return variants


def _number_or_auto(workers: object) -> int | Literal["auto"]:
    if workers == "auto":
        return "auto"
    if isinstance(workers, int) and not isinstance(workers, bool) and workers >= 0:
        return workers
    raise ValueError("must be auto or a number of processes, 0 or more")


def _bool_or_auto(value: object) -> bool | Literal["auto"]:
    if value == "auto" or isinstance(value, bool):
        return value
    raise ValueError("must be auto, true or false")


TrueOrAuto = Annotated[bool | Literal["auto"], PlainValidator(_bool_or_auto)]
Workers = Annotated[int | Literal["auto"], PlainValidator(_number_or_auto)]
Factor = Annotated[float, Field(ge=0.1, le=10)]
Factors = Annotated[list[Factor], Field(min_length=1), AfterValidator(_recorded_first)]
Variants = Annotated[list[list[Factor]], Field(min_length=1), AfterValidator(_original_first)]
Decibels = Annotated[list[Annotated[float, Field(ge=-100, le=100)]], AfterValidator(_ordered)]
Seconds = Annotated[list[Annotated[float, Field(gt=0, le=10)]], AfterValidator(_ordered)]
Shares = Annotated[list[Share], AfterValidator(_ordered)]
Band = Annotated[list[Annotated[float, Field(ge=0, le=4000)]], AfterValidator(_ordered)]
PositiveRange = Annotated[list[Positive], AfterValidator(_ordered)]
CountRange = Annotated[list[Count], AfterValidator(_ordered)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def added(default: Any, before: Any) -> Any:
    """The default of a key that came when runs had been stored without it.

    They were as today's are with ``before``: so a stored run is completed, and a model's fingerprint leaves the key out
    at this value. A new key needs this where ``before`` is another value than the default, and wherever an embedding
    depends on it (the sections ``features`` and ``model``, and what the fingerprint names of ``scoring``).
    """
    return Field(default, json_schema_extra={"before": before})


def before_added(section: type[Section]) -> dict[str, Any]:
    """``before`` of a section's `added` keys, its sections' among them where they have such."""
    found: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        if isinstance(field.default, Section):
            found |= {name: keys} if (keys := before_added(type(field.default))) else {}
        elif isinstance(field.json_schema_extra, dict):
            found[name] = field.json_schema_extra["before"]
    return found


class Shards(Section):
    """How the shards of a data directory are fetched: its file ``shards.yaml``, not a part of a configuration."""

    address: str | None = None  # what paths of shards are relative to, as https://host/corpus; None: the directory
    cache: str | None = None  # local folder that whole shards are downloaded to; None: each read goes there
    cache_gigabytes: NotNegative = 100.0  # the folder grows to this
    tries: Count = 5  # of a read that is interrupted
    wait_seconds: NotNegative = 1.0  # before the second try; then twice as long each time


class Data(Section):
    sample_rate: Count = 16000  # Hz
    crop_seconds: Annotated[float, Field(ge=0.05)] = 2.0
    held_out_speakers: CountOrZero = 10  # training speakers kept aside for the EER after each epoch
    held_out_nontargets: Count = 10000  # at most so many of their nontarget trials
    max_unusable_share: Probability = 0.01  # of utterances that may be empty, silent or unreadable
    workers: Workers = "auto"  # processes that read and augment ahead
    prefetch: Count = 4  # batches that a worker reads ahead
    cache_gigabytes: NotNegative = 2.0  # decoded training audio kept in memory where all of it fits


class Batch(Section):
    speakers: Count = 64
    utterances: Count = 1  # of each speaker


class Noise(Section):
    probability: Probability = 0.0
    list: str | None = None  # `utt path`, a noise recording a line
    snr_db: Decibels = [0.0, 15.0]


class Babble(Section):
    probability: Probability = 0.0
    voices: CountRange = [3, 7]
    snr_db: Decibels = [13.0, 20.0]


class Reverb(Section):
    probability: Probability = 0.0
    list: str | None = None  # `utt path`, a room impulse response a line; null: simulated
    rt60_seconds: Seconds = [0.1, 0.6]


class Gain(Section):
    probability: Probability = 0.0
    decibels: Decibels = [-20.0, 6.0]


class Clipping(Section):
    probability: Probability = 0.0
    share: Shares = [0.001, 0.1]  # of the samples, the loudest, that are cut off


class Telephone(Section):
    probability: Probability = 0.0
    band_hz: Band = [300.0, 3400.0]  # of 8 kHz in 8 bits of mu-law


class Codec(Section):
    probability: Probability = 0.0
    formats: Annotated[list[Literal["opus", "mp3"]], Field(min_length=1)] = ["opus", "mp3"]
    kbit_per_second: Annotated[list[Annotated[float, Field(ge=1, le=320)]], AfterValidator(_ordered)] = [12.0, 32.0]


class SpecAugment(Section):
    probability: Probability = 1.0
    time_masks: CountOrZero = 2
    time_frames: CountOrZero = 20
    freq_masks: CountOrZero = 2
    freq_bins: CountOrZero = 10


class Augment(Section):
    speed_factors: Factors = [1.0, 0.9, 1.1]  # each makes new speakers; the first is 1.0
    formant_factors: Factors = [1.0]  # each makes new speakers of every speed; the first is 1.0
    noise: Noise = Noise()
    babble: Babble = Babble()
    reverb: Reverb = Reverb()
    gain: Gain = Gain()
    clipping: Clipping = Clipping()
    telephone: Telephone = Telephone()
    codec: Codec = Codec()
    recordings_megabytes: NotNegative = 1000.0  # of noise and rooms, kept decoded where the encoder is
    specaugment: SpecAugment = SpecAugment()


class Filterbank(Section):
    name: Literal["fbank"] = added("fbank", before="fbank")
    n_mels: Count = 80
    frame_length_seconds: Positive = 0.025
    frame_shift_seconds: Positive = 0.01
    window: Literal["hamming", "povey"] = "hamming"
    low_hz: NotNegative = 20.0
    high_hz: Positive | None = None  # null: half the sample rate
    dither: NotNegative = 0.0
    formant_envelope_hz: Positive | None = added(
        None, before=None
    )  # null: a formant factor stretches the whole spectrum, harmonics too
    scale: Literal["int16", "unit"] = added("int16", before="int16")  # of the samples that energies are taken of
    mean_normalisation: bool = added(True, before=True)  # subtract each utterance's mean over time


class Waveform(Section):
    name: Literal["waveform"]  # no features: the encoder takes samples
    n_mels: ClassVar[None] = None
    scale: Literal["int16", "unit"] = "unit"


Features = Annotated[Filterbank | Waveform, Field(discriminator="name")]


class SpeechEncoderV3(Section):
    name: Literal["speech_encoder_v3"] = "speech_encoder_v3"
    channels: PerConvolution = [32, 64]
    groups: Count = 8
    time_strides: PerConvolution = [2, 2]
    freq_strides: PerConvolution = [2, 2]
    d_model: Count = 256
    n_layers: Count = 4
    n_heads: Count = 4
    feedforward: Count = 1024
    dropout: Share = 0.1
    layer_drop: Share = 0.1
    position: Literal["sinusoidal", "convolutional", "rotary", "none"] = "convolutional"
    position_kernel: Count = 31
    pooling: Literal["attentive_statistics", "statistics", "mean"] = "attentive_statistics"
    pooling_hidden: Count = 128
    embed_dim: Count = 192
    embedding_dropout: Share = 0.0
    embedding_norms: Literal["batch", "layer", "none"] = added(
        "batch", before="batch"
    )  # of the pooled values and of the embedding
    aggregate_layers: bool = added(True, before=False)  # pool over the outputs of all layers, not of the last alone
    average_spectrum: bool = added(
        False, before=False
    )  # give the encoder the spectrum that mean normalisation takes away
    average_spectrum_dropout: Probability = added(0.5, before=0.5)  # of a training crop, that it goes without it

    @model_validator(mode="after")
    def _widths_divide(self) -> "SpeechEncoderV3":
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


class ImportedEncoder(Section):
    """A class of any package, see `spkver.models.imported_encoder`."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")]
    args: dict[str, Any] = {}  # of the class
    # Found by the check at the start of a training where they are null.
    embed_dim: Count | None = None
    masks_padding: bool | None = None  # padding changes no embedding; false: only equal lengths are embedded together


class OnnxEncoder(Section):
    """``model.onnx`` beside the configuration, see `spkver.models.onnx_encoder`; it can be used, not trained."""

    name: Literal["onnx"]
    input: str  # names within the file
    output: str
    embed_dim: Count


def _kind_of_model(section: Any) -> str:
    name = section.get("name", "") if isinstance(section, dict) else getattr(section, "name", "")
    return name if name in ("speech_encoder_v3", "onnx") else "package.module:Class"


Model = Annotated[
    Annotated[SpeechEncoderV3, Tag("speech_encoder_v3")]
    | Annotated[ImportedEncoder, Tag("package.module:Class")]
    | Annotated[OnnxEncoder, Tag("onnx")],
    Discriminator(_kind_of_model),
]


class Softmax(Section):
    name: Literal["softmax"]


class NormFace(Section):
    name: Literal["normface"] = "normface"
    scale: Positive = 32.0


class ArcMargin(Section):
    name: Literal["arc_margin"] = "arc_margin"
    scale: Positive = 32.0
    margin: NotNegative = 0.2  # radians, at the end of the margin schedule
    easy_margin: bool = False


class IntertopkSubcenter(Section):
    name: Literal["intertopk_subcenter"] = "intertopk_subcenter"
    scale: Positive = 32.0
    margin: NotNegative = 0.2  # radians, at the end of the margin schedule
    easy_margin: bool = False
    K: Count = 3  # sub-centers a speaker
    mp: NotNegative = 0.06  # radians, penalty of the nearest other speakers
    k_top: CountOrZero = 5  # how many of them
    do_lm: bool = False  # large-margin fine-tuning: no penalty


Head = Annotated[Softmax | NormFace | ArcMargin | IntertopkSubcenter, Field(discriminator="name")]


class Optimizer(Section):
    name: Literal["muon", "adamw", "adam", "radam", "nadam", "sgd"] = "muon"
    lr: Positive = 0.001
    weight_decay: NotNegative = 0.05
    betas: Annotated[list[Share], Field(min_length=2, max_length=2)] = [0.9, 0.98]
    momentum: Share = added(0.95, before=0.9)  # of sgd, and of muon's matrices
    freeze: list[str] = []  # patterns of the encoder's weights and statistics that stay as they are
    lr_factors: dict[
        str, Positive
    ] = {}  # pattern of the encoder's weights -> factor of lr; the last that matches counts


class LearningRateSchedule(Section):
    name: Literal["cosine", "exponential", "constant"] = "cosine"
    warmup_epochs: NotNegative = 1.0
    final_lr: NotNegative = 1e-5

    @model_validator(mode="after")
    def _exponential_never_reaches_zero(self) -> "LearningRateSchedule":
        if self.name == "exponential" and self.final_lr == 0:
            raise ValueError("final_lr: must be above 0 in an exponential schedule")
        return self


class MarginSchedule(Section):
    start_epoch: NotNegative = 2.0  # until then the margin is `initial`
    end_epoch: NotNegative = 6.0  # from then on it is head.margin
    initial: NotNegative = 0.0

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> "MarginSchedule":
        if self.end_epoch < self.start_epoch:
            raise ValueError(f"end_epoch: must not lie before start_epoch {self.start_epoch}")
        return self


class Training(Section):
    epochs: Count = 20
    minutes: Positive | None = None  # of training, which the epochs share; null: an epoch is a pass over the data
    clip_norm: Positive = 3.0  # over encoder and head together
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    precision: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    tf32: bool = False  # a GPU may multiply float32 with 10 bits of mantissa
    threads: CountOrZero = 0  # 0: what torch chooses
    accumulate: Count = 1  # a step's batch is so many times as large, computed in so many pieces
    compile: TrueOrAuto = added("auto", before=False)  # encoder and loss by torch.compile; auto: on a GPU
    log_every: Count = 10  # steps; a GPU is waited for, and their losses read, as seldom
    head: Literal["replicated", "sharded", "auto"] = added("auto", before="replicated")  # of several processes
    head_megabytes: Positive | None = None  # logits that take more are computed chunk by chunk; null: 2048 on a GPU
    chunked_head_rows: Count = 20000  # on a CPU with head_megabytes null: so from so many weight rows (classes x K) on
    chunked_head_products: Literal["float32", "bfloat16"] = "float32"  # .. with matrix products of this type
    sampled_share: Annotated[float, Field(gt=0, le=1)] = 1.0  # of the classes that a step compares with; 1: all
    keep_last: Count = 5  # checkpoints of the last epochs, beside the best
    average_last: Count = 5  # checkpoints that make the final model
    model_precision: Literal["float32", "int8"] = "float32"  # of the final model's matrices in its file
    statistics_utterances: Annotated[int, Field(ge=2)] = 2000  # whole ones, for the averaged model's BatchNorms
    checkpoint_minutes: Positive = 5.0  # between checkpoints within an epoch
    max_skipped_in_a_row: Count = 10  # non-finite steps before training gives up

    @model_validator(mode="after")
    def _keeps_what_it_averages(self) -> "Training":
        if self.average_last > self.keep_last:
            raise ValueError(f"average_last: must not be above keep_last {self.keep_last}")
        return self


class Init(Section):
    required: bool = False  # a run without a model to start from is refused
    head: Literal["keep", "rebuild"] = "keep"  # keep the rows of speakers that the model knows by name; rebuild: none
    utterances: Count = 10  # at most so many make the centre of a new class
    subcenter_spread: NotNegative = 0.1  # tangent of the angle between a centre and its further sub-centers


class Snapshots(Section):
    speakers: CountOrZero = added(
        10, before=0
    )  # at most so many training and so many held-out speakers; 0: no snapshots
    utterances: Count = added(10, before=1)  # at most so many of each


class ScoreNorm(Section):
    method: Literal["z", "t", "s", "as"] = "as"
    top_n: Annotated[int, Field(ge=2)] = 50  # cohort speakers nearest to an utterance; "as" alone takes so few
    centre: bool = True  # subtract the mean of the training speakers from every embedding
    clusters: Annotated[int, Field(ge=2)] | None = None  # of like speakers, who then make the cohort


class Plda(Section):
    lda_dim: Count | None = None  # null: no LDA
    iterations: Count = 20  # of EM
    adapt_within: Probability = (
        0.7  # share of the variance that other data has too much, given to speech of one speaker
    )
    adapt_between: Probability = 0.3  # .. and given to what tells speakers apart


class Calibration(Section):
    p_target: Annotated[float, Field(gt=0, lt=1)] = 0.05  # prior that the objective is weighted for
    quality: list[Literal["duration", "magnitude", "cohort_mean"]] = [
        "duration",
        "magnitude",
    ]  # measures beside the score
    regularisation: Positive = 1e-6
    max_nontargets: Count = 20000  # trials of the held-out speakers, of each kind
    joined_pairs: CountOrZero = 40  # about so many pairs of recordings are joined of their utterances; 0: none
    joined_seconds: PositiveRange = [2.0, 60.0]  # lengths that these are cut to


class Evaluation(Section):
    p_targets: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1)] = [0.01, 0.05]
    bootstrap: CountOrZero = 1000  # resamplings of the speakers for the intervals; 0: no intervals


class Scoring(Evaluation):
    batch_seconds: Positive = 120.0  # audio embedded at once
    max_seconds: Positive = 60.0  # of an utterance that are used; of a longer one, of its speech, from the middle
    variants: Variants = added(
        [[1.0, 1.0]], before=[[1.0, 1.0]]
    )  # that an utterance is embedded in, see spkver/data/variants.py
    norm: ScoreNorm = ScoreNorm()
    plda: Plda = Plda()
    calibration: Calibration = Calibration()


class Config(Section):
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    data: Data = Data()
    batch: Batch = Batch()
    augment: Augment = Augment()
    features: Features = Filterbank()
    model: Model = SpeechEncoderV3()
    head: Head = ArcMargin()
    optimizer: Optimizer = Optimizer()
    lr_schedule: LearningRateSchedule = LearningRateSchedule()
    margin_schedule: MarginSchedule = MarginSchedule()
    training: Training = Training()
    init: Init = Init()
    snapshots: Snapshots = Snapshots()
    scoring: Scoring = Scoring()
