"""Configuration: YAML files checked against a typed schema.

Notable:

- The schema has no default values. Every value stands in YAML, where a reader looks for it.
- ``base: other.yaml`` at the top of a file takes everything from that file and changes only what is
  written here. A section whose ``name`` changes (another head, say) starts anew, because the keys
  of the old one mean nothing to the new one.
- ``key.sub=value`` overrides come last; their values are YAML.
- A mistake is one line: the file, the key, what it got, and the nearest valid key.
"""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spkver.errors import SpkverError

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Pair = Annotated[list[Count], Field(min_length=2, max_length=2)]
Range = Annotated[list[float], Field(min_length=2, max_length=2)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Data(Section):
    sample_rate: Count  # Hz
    crop_seconds: Positive
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
    snr_db: Range


class Babble(Section):
    probability: Probability
    voices: Pair
    snr_db: Range


class Reverb(Section):
    probability: Probability
    list: str | None  # `utt path`, a room impulse response a line; null: simulated
    rt60_seconds: Range


class SpecAugment(Section):
    probability: Probability
    time_masks: CountOrZero
    time_frames: CountOrZero
    freq_masks: CountOrZero
    freq_bins: CountOrZero


class Augment(Section):
    speed_factors: Annotated[list[Positive], Field(min_length=1)]  # each makes new speakers; the first is 1.0
    noise: Noise
    babble: Babble
    reverb: Reverb
    specaugment: SpecAugment

    @model_validator(mode="after")
    def _first_speed_is_the_recorded_one(self):
        if self.speed_factors[0] != 1.0 or len(set(self.speed_factors)) < len(self.speed_factors):
            raise ValueError(
                f"speed_factors: must begin with 1.0 and name no factor twice, got {self.speed_factors}"
            )
        return self


class Features(Section):
    n_mels: Count
    frame_length_seconds: Positive
    frame_shift_seconds: Positive
    window: Literal["hamming", "povey"]
    low_hz: NotNegative
    high_hz: Positive | None  # null: half the sample rate
    dither: NotNegative


class SpeechEncoderV3(Section):
    name: Literal["speech_encoder_v3"]
    channels: Pair
    groups: Count
    time_strides: Pair
    freq_strides: Pair
    d_model: Count
    n_layers: Count
    n_heads: Count
    feedforward: Count
    dropout: Probability
    layer_drop: Probability
    position: Literal["sinusoidal", "convolutional", "none"]
    position_kernel: Count
    pooling: Literal["attentive_statistics", "statistics", "mean"]
    pooling_hidden: Count
    embed_dim: Count
    embedding_dropout: Probability

    @model_validator(mode="after")
    def _widths_divide(self):
        if self.d_model % self.n_heads:
            raise ValueError(f"n_heads: must divide d_model {self.d_model}, got {self.n_heads}")
        for channels in self.channels:
            if channels % self.groups:
                raise ValueError(f"groups: must divide channels {self.channels}, got {self.groups}")
        if self.position_kernel % 2 == 0:
            raise ValueError(f"position_kernel: must be odd, got {self.position_kernel}")
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
    name: Literal["adamw", "adam", "radam", "nadam", "sgd"]
    lr: Positive
    weight_decay: NotNegative
    betas: Annotated[list[Probability], Field(min_length=2, max_length=2)]  # sgd: the first is the momentum


class LearningRateSchedule(Section):
    name: Literal["cosine", "exponential", "constant"]
    warmup_epochs: NotNegative
    final_lr: NotNegative

    @model_validator(mode="after")
    def _exponential_never_reaches_zero(self):
        if self.name == "exponential" and self.final_lr == 0:
            raise ValueError("final_lr: an exponential schedule needs a value above 0")
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
    keep_last: Count  # checkpoints of the last epochs, beside the best
    average_last: Count  # checkpoints that make the final model
    checkpoint_minutes: Positive  # between checkpoints within an epoch
    max_skipped_in_a_row: Count  # non-finite steps before training gives up

    @model_validator(mode="after")
    def _keeps_what_it_averages(self):
        if self.average_last > self.keep_last:
            raise ValueError(f"average_last: {self.average_last} checkpoints, but keep_last is {self.keep_last}")
        return self


class Scoring(Section):
    batch_seconds: Positive  # audio embedded at once
    max_seconds: Positive  # of an utterance that are used, from its middle
    p_targets: Annotated[list[Probability], Field(min_length=1)]
    bootstrap: CountOrZero  # resamplings of the speakers for the intervals; 0: no intervals


class Config(Section):
    seed: CountOrZero
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
    scoring: Scoring


def load_config(path: str | Path, overrides: list[str] = ()) -> Config:
    """Read, complete and check a configuration.

    Args:
        path: a YAML file.
        overrides: ``key.sub=value`` each.

    Raises:
        SpkverError: with one line that names file and key.
    """
    path = Path(path)
    content = _read_with_bases(path, [])
    for override in overrides:
        content = _merge(content, _parse_override(override))
    content.pop("run", None)  # what a finished run wrote beside its values
    return _check(content, path)


def dump_config(config: Config, run: dict | None = None) -> str:
    """The complete configuration as YAML; ``run`` adds what it ran on under that key."""
    content = config.model_dump()
    if run is not None:
        content["run"] = run
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads ``1e-3`` as a number, and refuses a key that stands twice."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key_node.value}' stands twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _parse_yaml(text: str, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise SpkverError(f"{source}{line}: {problem}") from None


def _read_with_bases(path: Path, seen: list[Path]) -> dict:
    if path.resolve() in seen:
        raise SpkverError(f"{path}: its 'base' leads back to itself")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpkverError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file") from None
    except UnicodeDecodeError:
        raise SpkverError(f"{path}: is not UTF-8 text") from None
    content = _parse_yaml(text, str(path))
    if not isinstance(content, dict):
        raise SpkverError(f"{path}: must hold 'key: value' lines, found {_kind(content)}")
    base = content.pop("base", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise SpkverError(f"{path}: key 'base' must be the path of a YAML file, got {base!r}")
    return _merge(_read_with_bases(path.parent / base, [*seen, path.resolve()]), content)


def _parse_override(override: str) -> dict:
    keys, equals, value = override.partition("=")
    if not equals or not all(keys.split(".")):
        raise SpkverError(f"override '{override}': must look like key.sub=value")
    content = _parse_yaml(value, f"override '{override}'")
    for key in reversed(keys.split(".")):
        content = {key: content}
    return content


def _merge(old: dict, new: dict) -> dict:
    merged = dict(old)
    for key, value in new.items():
        before = merged.get(key)
        both = isinstance(before, dict) and isinstance(value, dict)
        renamed = both and value.get("name", before.get("name")) != before.get("name")
        # An override such as head.name=softmax must not lose what the next override sets.
        merged[key] = _merge(before, value) if both and not renamed else value
    return merged


def _check(content: dict, path: Path) -> Config:
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        # An unknown key often explains a missing one: it comes first.
        problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        raise SpkverError(f"{path}: {_explain(problems[0])}") from None


def _explain(problem: dict) -> str:
    location = [str(part) for part in problem["loc"]]
    if location[:1] == ["head"] and len(location) > 1:
        location.pop(1)  # pydantic puts the head's name between
    key = ".".join(location)
    kind, got = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        return f"unknown key '{key}'{_nearest(key, problem['loc'])}"
    if kind == "missing":
        return f"key '{key}' is missing"
    if kind.startswith("union_tag"):
        return f"key '{key}.name' must be one of {', '.join(_head_names())}, got {_shown(got)}"
    if kind == "value_error":
        return f"key '{key}.{str(problem['ctx']['error']).replace(': ', chr(39) + ' ', 1)}"
    wanted = problem["msg"].removeprefix("Input should be ").removeprefix("a ").removeprefix("valid ")
    return f"key '{key}' must be {wanted}, got {_shown(got)}"


def _nearest(key: str, location: tuple) -> str:
    valid = list(_valid_keys(Config))
    if location[0] == "head":
        section = next((s for s in get_args(get_args(Head)[0]) if _name_of(s) == location[1]), None)
        valid = [k for k in valid if not k.startswith("head.")]
        valid += [f"head.{name}" for name in section.model_fields] if section else []
    siblings = [k for k in valid if k.rpartition(".")[0] == key.rpartition(".")[0]]
    # The same name in another section ('lr' for 'optimizer.lr'), then a misspelling here, then anywhere.
    same = [k for k in valid if k.rpartition(".")[2] == key.rpartition(".")[2]]
    near = same or difflib.get_close_matches(key, siblings, 1, 0.6) or difflib.get_close_matches(key, valid, 1, 0.4)
    return f" (did you mean '{near[0]}'?)" if near else f" (valid here: {', '.join(siblings)})"


def _valid_keys(section: type[Section], prefix: str = ""):
    for name, field in section.model_fields.items():
        yield prefix + name
        options = [field.annotation, *get_args(field.annotation)]
        for option in options:
            if isinstance(option, type) and issubclass(option, Section):
                yield from _valid_keys(option, f"{prefix}{name}.")


def _name_of(section: type[Section]) -> str:
    return get_args(section.model_fields["name"].annotation)[0]


def _head_names() -> list[str]:
    return [_name_of(section) for section in get_args(get_args(Head)[0])]


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a section" if "name" not in value else repr(value["name"])
    return repr(value)
