"""Every verb takes its words in any order, and an existing path is a path whatever it is called."""

import argparse
import re
import shlex

import pytest

from spkver.cli.examples import EXAMPLES, GUIDE
from spkver.cli.main import command_parser
from spkver.cli.scoring import _named_system


def verbs_of(parser, words=()):
    """``(words, parser)`` of each verb that has no verbs of its own."""
    groups = [action for action in parser._actions if action.nargs == argparse.PARSER]
    if not groups:
        yield words, parser
    for group in groups:
        for name, below in group.choices.items():
            yield from verbs_of(below, (*words, name))


PARSER = command_parser()


def values_of(action):
    """Words that an option takes."""
    value = (
        action.choices[0] if action.choices else {"dpi": "100"}.get(action.dest, {float: "0.5"}.get(action.type, "3"))
    )
    return [value] * (action.nargs if isinstance(action.nargs, int) else 1)


VERB_NAMES = list(dict.fromkeys(words[0] for words, _ in verbs_of(PARSER)))
VERBS = [
    pytest.param(words, parser, id=" ".join(words))
    for words, parser in verbs_of(PARSER)
    if any(not action.option_strings for action in parser._actions)
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("verb, parser", VERBS)
def test_an_option_may_stand_anywhere_among_paths_and_overrides(verb, parser, here):
    positional = [action for action in parser._actions if not action.option_strings]
    without_end = [action.dest for action in positional if action.nargs == argparse.ONE_OR_MORE]
    names = [action.dest for action in positional if action.dest != "overrides"]
    paths = ["lr=0.1", "run_10:30", "plain", "second=2"][: len(names) + len(without_end)]
    for path in paths:
        (here / path).mkdir()
    overrides = ["scoring.bootstrap=7"] if positional[-1].dest == "overrides" else []
    options = [action for action in parser._actions if action.option_strings and action.dest != "help"]
    for option in options:
        words = [option.option_strings[0], *values_of(option)]
        others = [w for o in options if o.required and o != option for w in (o.option_strings[0], *values_of(o))]
        found = [
            vars(PARSER.parse_args([*verb, *order]))
            for place in range(len(paths) + 1)
            for before, after in [(paths[:place], paths[place:])]
            for order in (
                [*before, *words, *after, *others, *overrides],
                [*overrides, *others, *before, *words, *after],
                [*others, *before, *words, *overrides, *after],
            )
        ]
        assert all(one == found[0] for one in found), option.option_strings
        given = [found[0][name] for name in names]
        flat = [str(path) for path in given if not isinstance(path, list)]
        assert [*flat, *(str(path) for name in without_end for path in found[0][name])] == paths
        assert found[0].get("overrides", []) == overrides


def test_a_word_with_an_equals_sign_is_a_path_only_where_one_is_missing(here):
    parse = PARSER.parse_args
    (here / "seed=7").mkdir()
    assert parse(["train", "own.yaml", "seed=7"]).overrides == ["seed=7"]
    assert str(parse(["score", "data", "seed=7"]).exp) == "seed=7"
    evaluated = parse(
        ["evaluate", "scoring.bootstrap=0", "--by", "gender", "scoring.p_targets=[0.1]", "data", "seed=7"]
    )
    assert (str(evaluated.data), str(evaluated.exp), evaluated.by) == ("data", "seed=7", ["gender"])
    assert evaluated.overrides == ["scoring.bootstrap=0", "scoring.p_targets=[0.1]"]
    assert parse(["evaluate", "--scores", "s", "--trials", "t", "scoring.bootstrap=0"]).data is None


def test_what_is_missing_or_too_much_is_said_in_one_line(here, capsys):
    for words, message in (
        (
            ["norm", "data", "lr=0.1", "--train", "t"],
            "required: exp (taken for overrides, as no path has that name: lr=0.1)",
        ),
        (["evaluate", "data", "exp", "more"], "unrecognized arguments: more"),
        (["score", "data", "exp", "--tirals", "x"], "unrecognized arguments: --tirals x (did you mean '--trials'?)"),
        (["evalute", "data"], "no 'evalute' (did you mean 'evaluate'?): " + ", ".join(VERB_NAMES)),
        (["plot", "ran", "exp"], "no 'ran' (did you mean 'run'?): margin, run, det, architecture"),
        (["animate", "exp", "--far-off"], "unrecognized arguments: --far-off"),
        (["score", "data", "exp", "scoring.bootstrap=0"], "unrecognized arguments: scoring.bootstrap=0"),
    ):
        with pytest.raises(SystemExit) as stopped:
            PARSER.parse_args(words)
        assert stopped.value.code == 2
        assert capsys.readouterr().err.splitlines()[-1].endswith(message)


def test_numbers_below_zero_and_words_behind_two_dashes_are_values(here):
    parse = PARSER.parse_args
    assert float(parse(["verify", "--threshold", "-2.5", "a", "--model", "m", "b"]).threshold) == -2.5
    assert parse(["verify", "--model", "m", "--", "-a", "--b"]).b == "--b"
    assert parse(["threshold", "--far", "0.1", "0.01", "data", "exp"]).far == [0.1, 0.01]
    assert parse(["train", "--profile", "own.yaml"]).profile == 30


def test_the_system_behind_a_colon_is_told_from_a_folder_with_a_colon(here):
    for folder in ("run_10:30", "lr=0.1"):
        (here / folder).mkdir()
    for text, exp, system in (
        ("exp/a", "exp/a", "cosine"),
        ("exp/a:plda+calibration", "exp/a", "plda+calibration"),
        ("run_10:30", "run_10:30", "cosine"),
        ("run_10:30:plda", "run_10:30", "plda"),
        ("lr=0.1:plda", "lr=0.1", "plda"),
        ("none_10:30", "none_10:30", "cosine"),
    ):
        found = _named_system(text)
        assert (str(found.exp), found.name) == (exp, system)


@pytest.mark.parametrize("words, parser", [(words, parser) for words, parser in verbs_of(PARSER)])
def test_the_help_of_every_verb_has_examples_that_parse_and_names_defaults(words, parser, here):
    verb = " ".join(words)
    assert EXAMPLES[verb], verb
    for line in EXAMPLES[verb]:
        assert f"\n  {line}\n" in parser.format_help()
        found = PARSER.parse_args(shlex.split(re.sub(r'^eval "\$\((.*)\)"$', r"\1", line).partition(" >")[0])[1:])
        assert f"spkver {verb} " in f"{line} ".replace(')"', " ") and found.verb is parser.get_default("verb"), line
    for action in parser._actions:
        if action.option_strings and action.nargs != 0 and action.default not in (None, []):
            assert "(default: " in action.help, action.dest


def test_the_guide_names_verbs_that_there_are():
    named = re.findall(r"spkver ([a-z-]+)", GUIDE)
    assert set(named) - set(VERB_NAMES) == {"--help"}
    assert all(f"spkver {verb}" in GUIDE for verb in ("verify", "doctor", "completion", "evaluate"))


OF_OTHER_FILES = ("export", "verify", "enroll", "identify", "speakers", "threshold", "prepare folder")


@pytest.mark.parametrize("verb, parser", [one for one in VERBS if one.id not in OF_OTHER_FILES])
def test_a_help_text_can_be_read_without_its_neighbours(verb, parser):
    for action in parser._actions:
        words = action.help.split("(")[0].split()  # without the default
        assert len(words) >= 3, action.help
        assert words[0] not in ("of", "in", "to", "as", "such", "gets"), action.help
