"""Configuration: YAML files checked against a typed schema.

- What a file does not say has the default value of the schema (``schema.py``).
- ``base: other.yaml`` at the top of a file takes everything from that file and changes only what is written here. It is
  a file beside it, or a configuration that comes with spkver. Another ``head.name``, ``model.name`` or
  ``features.name`` starts that section anew: each head, encoder and kind of features has keys of its own.
- ``key.sub=value`` overrides come last; their values are YAML.
- A mistake is one line: the file, the key, what it got, and the nearest valid key.
"""

import copy
import difflib
import os
import re
import reprlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, get_args, get_origin, overload

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from spkver.config.schema import Config, Section, before_added
from spkver.config.shipped import nearest_shipped, shipped
from spkver.errors import SpkverError

AnySection = TypeVar("AnySection", bound=Section)
Content = dict[str, Any]  # what a YAML file holds, before it is checked


@overload
def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config: ...


@overload
def load_config(path: str | Path, overrides: Sequence[str], schema: type[AnySection]) -> AnySection: ...


def load_config(path: str | Path, overrides: Sequence[str] = (), schema: type[Section] = Config) -> Section:
    """Read, complete and check a configuration.

    Args:
        path: a YAML file, or the name of a configuration that comes with spkver, as ``mini``.
        overrides: ``key.sub=value`` each.
        schema: what it must hold; recipes with a training of their own have their own.

    Returns:
        A ``schema``.

    Raises:
        SpkverError: with one line that names file and key.
    """
    return _load(path, overrides, schema)[0]


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Config, dict[str, Any]]:
    """Read what `dump_config` wrote; raises as `load_config`.

    Returns:
        The configuration, and what it ran on: empty where the file does not say.
    """
    return _load(path, overrides, Config)


def _load(path: str | Path, overrides: Sequence[str], schema: type[AnySection]) -> tuple[AnySection, dict[str, Any]]:
    path = _place(Path(path), path)
    content = _read_with_bases(path)
    run = content.pop("run", None)  # what a run wrote beside its values
    if run is not None:
        content = _merge(before_added(schema), _renamed(content))
    if schema is Config:  # so that `head: {margin: 0.3}` changes the default head
        content = _merge(Config().model_dump(), content)
    for override in overrides:
        content = _merge(content, _parse_override(override))
    return _check(content, path, schema), _checked_run(run or {}, path)


def complete(section: AnySection, overrides: Sequence[str], source: str) -> AnySection:
    """A section that stands in no file, changed by overrides and checked; ``source`` begins a message."""
    values = section.model_dump()
    for override in overrides:
        values = _merge(values, _parse_override(override))
    return _check(values, source, type(section))


def config_of(values: Content, path: Path | None, overrides: Sequence[str], source: str) -> Config:
    """A configuration made of values; those of a file change them, and overrides what the file says.

    Raises:
        SpkverError: as `load_config`; ``source`` begins a message where there is no file.
    """
    content = _merge(Config().model_dump(), values)
    if path is not None:
        content = _merge(content, _read_with_bases(_place(path, path)))
    for override in overrides:
        content = _merge(content, _parse_override(override))
    return _check(content, path or source, Config)


def read_yaml(path: Path) -> Any:
    """What a YAML file of another toolkit holds.

    Raises:
        SpkverError: it cannot be read, or is no YAML.
    """
    return _parse_yaml(_read_text(path, only_a_file=True), str(path))


# Keys of stored runs that have another name today.
_RENAMED = {"scoring.views": "scoring.variants"}


def _renamed(content: Content) -> Content:
    """What a run stored, with today's names of its keys."""
    for old, new in _RENAMED.items():
        section, _, key = old.partition(".")
        values = content.get(section)
        if isinstance(values, dict) and key in values:
            rest = {name: value for name, value in values.items() if name != key}
            content = content | {section: {new.partition(".")[2]: values[key], **rest}}
    return content


def dump_config(config: Section, run: dict[str, Any] | None = None) -> str:
    """The complete configuration as YAML; ``run`` adds what it ran on under that key."""
    content = config.model_dump()
    if run is not None:
        content["run"] = run
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def scoring_overrides(overrides: list[str]) -> list[str]:
    """Overrides that hold for a model that is trained: those of the scoring section.

    Raises:
        SpkverError: another one, which would not change the model.
    """
    stranger = next((override for override in overrides if not override.startswith("scoring.")), None)
    if stranger is not None:
        raise SpkverError(f"override '{stranger}': the model is trained; only scoring.* can still be changed")
    return overrides


_RUN = {"threshold": float, "held_out_eer": float, "data": str, "init": str}


def _checked_run(run: Any, path: Path) -> dict[str, Any]:
    """What others rely on in the section that a run wrote is of the right kind, or not there."""
    if not isinstance(run, dict):
        raise SpkverError(f"{path}: key 'run' must be a section, got {_shown(run)}; remove it")
    for key, kind in _RUN.items():
        value = run.get(key)
        # Not math.isfinite(), which fails for an integer of 400 digits.
        number = isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300
        if value is not None and not (number if kind is float else isinstance(value, kind)):
            raise SpkverError(f"{path}: key 'run.{key}' must be {_NAMES[kind]}, got {_shown(value)}; remove it")
    return run


_NAMES = {float: "a finite number", str: "text"}

# A configuration has a few kilobytes and four levels; what has more is another file, or wants to fill the memory.
_MOST_FILES = 100
_MOST_BYTES = 1 << 20
_MOST_VALUES = 20_000
_MOST_LEVELS = 30


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads ``1e-3`` as a number, and refuses a key that is given twice.

    It also refuses aliases that lead back to themselves, or that come to more than anybody writes
    (`a: [*b, *b], b: [*c, *c], ..` doubles with each line).
    """

    _level = 0  # of what is read now

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self._level > _MOST_LEVELS:
            raise yaml.composer.ComposerError(None, None, "is nested too deeply", self.peek_event().start_mark)
        self._level += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._level -= 1

    def construct_document(self, node: yaml.Node) -> Any:
        self._check_size(node, {}, [])
        return super().construct_document(node)

    def _check_size(self, node: yaml.Node, known: dict[int, int], above: list[yaml.Node]) -> int:
        """The number of values below a node, with each alias written out."""
        if isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) not in known:
            if any(node is one for one in above):
                self._refuse("an alias leads back to itself", node)
            if len(above) > _MOST_LEVELS:
                self._refuse("is nested too deeply", node)
            below = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
            known[id(node)] = 1 + sum(self._check_size(one, known, [*above, node]) for one in below)
        if known[id(node)] > _MOST_VALUES:
            self._refuse(f"comes to more than {_MOST_VALUES} values", node)
        return known[id(node)]

    def _refuse(self, why: str, node: yaml.Node) -> NoReturn:
        raise yaml.constructor.ConstructorError(None, None, why, node.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse("a key must be a word", key_node)
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key_node.value}' is given twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _parse_yaml(text: str, source: str) -> Any:
    """A value of its own for each call; a text is parsed once, which takes a tenth of a second with its bases."""
    return copy.deepcopy(_parsed(text, source))


@lru_cache(maxsize=100)
def _parsed(text: str, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
        raise SpkverError(f"{source}{line}: {problem}") from None
    except (
        ValueError,
        TypeError,
        OverflowError,
        AttributeError,
        LookupError,
    ) as error:  # the 99th of a month, `!!bool x`
        raise SpkverError(f"{source}: holds a value that is none ({error})") from None


def _place(path: Path, name: str | Path) -> Path:
    """The file at ``path``; where there is none, the configuration of that name that comes with spkver."""
    return path if os.path.lexists(path) and not path.is_dir() else shipped(name) or path


def _read_with_bases(path: Path, chain: Sequence[Path] = (), read: list[Path] | None = None) -> Content:
    """A file over its bases.

    Args:
        chain: the files that led to it, each a base of the one before.
        read: all files so far: lists of bases that have lists of bases could go on for ever.
    """
    text = _read_text(path, only_a_file=bool(chain))
    read = [] if read is None else read
    read.append(path)
    if len(read) > _MOST_FILES:
        raise SpkverError(f"{read[0]}: has more than {_MOST_FILES - 1} bases")
    if path.resolve() in chain:
        raise SpkverError(f"{path}: its 'base' leads back to itself")
    content = _parse_yaml(text, str(path))
    if not isinstance(content, dict):
        raise SpkverError(f"{path}: must hold 'key: value' lines, found {_kind(content)}")
    base = content.pop("base", None)
    if base is None:
        return content
    bases = base if isinstance(base, list) else [base]
    if not bases or not all(isinstance(each, str) for each in bases):
        raise SpkverError(f"{path}: key 'base' must be the path of a YAML file, or a list of them, got {_shown(base)}")
    merged: Content = {}
    for each in bases:  # a later one changes what an earlier one says
        merged = _merge(merged, _read_with_bases(_place(path.parent / each, each), [*chain, path.resolve()], read))
    return _merge(merged, content)


def _read_text(path: Path, only_a_file: bool) -> str:
    """The text of a file; of a pipe, too, where somebody gave one to the command."""
    try:
        if only_a_file and path.exists() and not path.is_file():
            raise SpkverError(f"{path}: is no file; a 'base' must be the path of a YAML file")
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        near = nearest_shipped(path)
        advice = f"did you mean '{near}'?" if near else "`spkver config --list` names those that come with spkver"
        raise SpkverError(
            f"{path}: cannot be read ({error.strerror}); give the path of a YAML file ({advice})"
        ) from None
    except (ValueError, RuntimeError) as error:  # a NUL in the name, a link to itself
        raise SpkverError(f"{path}: cannot be read ({error}); give the path of a YAML file") from None
    if len(content) > _MOST_BYTES:
        raise SpkverError(f"{path}: has more than {_MOST_BYTES >> 20} MB, which is no configuration")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise SpkverError(f"{path}: is not UTF-8 text") from None


def _parse_override(override: str) -> Content:
    keys, equals, value = override.partition("=")
    if not equals or not all(keys.split(".")):
        raise SpkverError(f"override '{override}': must look like key.sub=value")
    *sections, key = keys.split(".")
    content = {key: _parse_yaml(value, f"override '{override}'")}
    for section in reversed(sections):
        content = {section: content}
    return content


# Sections of several kinds, with the `name` that is meant where none is given.
_CHOICES: dict[str, str] = {key: getattr(Config(), key).name for key in ("features", "model", "head")}


def _merge(old: Content, new: Content) -> Content:
    merged = dict(old)
    for key, value in new.items():
        before = merged.get(key)
        merged[key] = value
        if isinstance(before, dict) and isinstance(value, dict):
            name = before.get("name", _CHOICES.get(key))
            is_another = key in _CHOICES and value.get("name", name) != name
            if not is_another:
                merged[key] = _merge(before, value)
    return merged


def _check(content: Content, path: Path | str, schema: type[AnySection]) -> AnySection:
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        # A wrong name explains keys that are unknown, and an unknown key one that is missing: they come first.
        order = ["string_pattern_mismatch", "extra_forbidden"]
        problems = sorted(
            error.errors(), key=lambda one: order.index(one["type"]) if one["type"] in order else len(order)
        )
        raise SpkverError(f"{path}: {_explain(problems[0], schema)}") from None


def _explain(problem: ErrorDetails, schema: type[Section]) -> str:
    location = [str(part) for part in problem["loc"]]
    if location[0] in _CHOICES and len(location) > 1:
        location.pop(1)  # pydantic puts the name of the kind between
    key = ".".join(location)
    kind, got = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        return f"unknown key '{key}'{_nearest(key, problem['loc'], schema)}"
    if kind == "missing":
        return f"key '{key}' is missing"
    if kind.startswith("union_tag"):
        return f"key '{key}.name' must be one of {', '.join(_kinds(key, schema))}, got {_shown(got)}"
    if kind == "string_pattern_mismatch":
        return f"key '{key}' must be speech_encoder_v3, or name a class as package.module:Class, got {_shown(got)}"
    if kind == "value_error":
        # Ours: "must ..." about the key itself, or "sub: must ..." about one of a section's keys.
        sub, _, said = str(problem["ctx"]["error"]).rpartition(": ")
        if sub:
            return f"key '{key}.{sub}' {said}, got {_shown(got[sub])}"
        return f"key '{key}' {said}, got {_shown(got)}"
    return f"key '{key}' must be {_WANTED.get(kind, _lower(problem['msg']))}, got {_shown(got)}"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60

_WANTED = {
    "float_type": "a number",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "model_type": "a section",
    "model_attributes_type": "a section",
    "dict_type": "a section",
}


def _lower(message: str) -> str:
    message = message.removeprefix("Input should be ")
    return message[:1].lower() + message[1:]


def _nearest(key: str, location: tuple[int | str, ...], schema: type[Section]) -> str:
    if key in _RENAMED:
        return f" (it is '{_RENAMED[key]}' now)"
    valid = list(_valid_keys(schema))
    choice = location[0]
    if choice in _CHOICES and len(location) > 1:
        chosen = _kinds(str(choice), schema)[str(location[1])]
        valid = [k for k in valid if not k.startswith(f"{choice}.")]
        valid += [f"{choice}.{name}" for name in chosen.model_fields]
    section, _, name = key.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in valid if k.rpartition(".")[0] == section}
    # The same name in another section ('lr' for 'optimizer.lr'), else a misspelling of one here.
    same = [k for k in valid if k.rpartition(".")[2] == name]
    near = same or [siblings[n] for n in difflib.get_close_matches(name, siblings, 1, 0.6)]
    return f" (did you mean '{near[0]}'?)" if near else f" (valid here: {', '.join(siblings.values())})"


def _valid_keys(section: type[Section], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield prefix + name
        for option in _sections(field.annotation):
            yield from _valid_keys(option, f"{prefix}{name}.")


def _sections(annotation: Any) -> list[type[Section]]:
    """The sections that an annotation allows."""
    options = [annotation, *get_args(annotation)]
    options = [get_args(option)[0] if get_origin(option) is Annotated else option for option in options]
    return [option for option in options if isinstance(option, type) and issubclass(option, Section)]


def _kinds(choice: str, schema: type[Section]) -> dict[str, type[Section]]:
    """The kinds of a section, by their names; one that takes names of many kinds is called by what they look like."""
    kinds = {}
    for section in _sections(schema.model_fields[choice].annotation):
        names = get_args(section.model_fields["name"].annotation)
        kinds[str(names[0]) if names else "package.module:Class"] = section
    return kinds


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a section" if "name" not in value else _SHORT.repr(value["name"])
    return _SHORT.repr(value)
