"""The recipes' shell: where a recipe may be started, its options, whose code runs, and what the fine-tune is given.

Most of it runs with a `spkver` that only notes its words (see ``noted`` in conftest.py).
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from spkver.config.schema import ArcMargin, Config, IntertopkSubcenter, Section

ROOT = Path(__file__).resolve().parents[2]
ALL = sorted(path.parent.name for path in (ROOT / "recipes").glob("*/run.sh"))
SPEECH = [name for name in ALL if name not in ("benchmark", "arcface_mnist", "general", "tour")]
WITH_STAGES = [name for name in ALL if name != "benchmark"]
NEEDED = {"own_folder": ["--audio", "/recordings"], "voxceleb": ["--corpus", "/voxceleb", "--lists", "vox1_O"]}


def fine_tunes(calls):
    """Words of each training that starts from a model, and of each that does not."""
    trainings = [words for words in calls if words[1:2] == ["train"]]
    return [words for words in trainings if "--init" in words], [words for words in trainings if "--init" not in words]


def overrides(words):
    return [word for word in words if "=" in word]


@pytest.mark.parametrize("name", ALL)
def test_a_recipe_does_the_same_from_any_folder_and_by_any_way_of_starting(noted, name, tmp_path):
    words = NEEDED.get(name, [])
    done = noted.recipe(name, *words)
    assert done.returncode == 0, done.stderr
    expected, said = noted.calls(), done.stdout
    assert expected
    folder, script = noted.root / "recipes" / name, noted.root / "recipes" / name / "run.sh"
    link, elsewhere = tmp_path / "a link", tmp_path / "else where"
    link.symlink_to(script)
    elsewhere.mkdir()
    (elsewhere / "recipes" / name).mkdir(parents=True)
    ways = [
        (["./run.sh"], {"cwd": folder}),
        (["bash", "run.sh"], {"cwd": folder}),
        (["dash", "run.sh"], {"cwd": folder}),
        ([script], {"cwd": elsewhere}),
        ([link], {"cwd": elsewhere}),
        ([f"recipes/{name}/run.sh"], {"cwd": noted.root, "CDPATH": str(elsewhere)}),
        (["bash", f"recipes/{name}/run.sh"], {"cwd": noted.root, "lists": "other", "exp": "other"}),
    ]
    for way, options in ways:
        if shutil.which(way[0]) is None:
            continue
        done = noted.start(*way, *words, **options)
        assert (done.returncode, noted.calls()) == (0, expected), (way, done.stderr)
        # From elsewhere, what to do next begins with the way to the repository.
        assert done.stdout.replace(f"next        cd '{noted.root}'\n           ", "next       ") == said
    script.chmod(0o644)
    done = noted.start("bash", f"recipes/{name}/run.sh", *words)
    assert (done.returncode, noted.calls()) == (0, expected)


@pytest.mark.parametrize("name", ALL)
def test_help_comes_from_everywhere_and_starts_nothing(noted, name):
    script = noted.root / "recipes" / name / "run.sh"
    helps = {
        noted.start("bash", script, word, cwd=cwd).stdout for word in ("--help", "-h") for cwd in ("/", script.parent)
    }
    assert len(helps) == 1
    assert helps.pop().startswith(script.read_text().splitlines()[1][2:])
    assert noted.calls() == []


def options_of(name):
    """The options that a recipe's help names, each with what it takes."""
    text = (ROOT / "recipes" / name / "run.sh").read_text().partition("\n\n")[0].replace("\n#", "")
    return dict(re.findall(r"(--[a-z][a-z0-9-]*)\s+([A-Za-z\"][\w|+.\"]*)", text))


def paths_of(name):
    return [option for option, takes in options_of(name).items() if takes in ("DIR", "FILE", "MODEL", "DIR_OR_TABLE")]


def shown(noted, name, variables, *words, cwd, **environment):
    """What a recipe's variables are once its options are read."""
    script = (noted.root / "recipes" / name / "run.sh").read_text()
    values = " ".join(f'"${variable}"' for variable in variables)
    show = noted.root / "recipes" / name / "show.sh"
    show.write_text(script.partition("set_up ")[0] + f'printf "%s|" {values} "$(pwd)"\n')
    done = noted.start("bash", show, *NEEDED.get(name, []), *words, cwd=cwd, **environment)
    assert done.returncode == 0, done.stderr
    *values, folder, _ = done.stdout.split("|")
    assert folder == str(noted.root)
    return dict(zip(variables, values, strict=True))


@pytest.mark.parametrize("name", WITH_STAGES)
def test_a_relative_path_is_relative_to_where_the_recipe_is_started(noted, tmp_path, name):
    caller = tmp_path / "my folder"
    caller.mkdir()
    variables = {option: option[2:].replace("-", "_") for option in paths_of(name)}
    assert {"--exp", "--config"} <= set(variables)
    given = [word for option, variable in variables.items() for word in (option, f"a {variable}")]
    meant = {variable: f"{caller}/a {variable}" for variable in variables.values()}
    assert shown(noted, name, variables.values(), *given, cwd=caller) == meant
    # In the repository itself it stays as it was given, and the repository's own paths are the same from everywhere.
    here = {variable: f"a {variable}" for variable in variables.values()}
    assert shown(noted, name, variables.values(), *given, cwd=noted.root) == here
    defaults = shown(noted, name, variables.values(), cwd=caller)
    assert defaults == shown(noted, name, variables.values(), cwd=noted.root)
    assert not any(value.startswith(str(tmp_path)) for value in defaults.values())


def test_a_path_may_be_given_in_any_form(noted, tmp_path):
    (tmp_path / "sub").mkdir()
    forms = {
        **{given: f"{tmp_path}/{given}" for given in ("x", "../x", "-x", "a=b")},
        **{given: given for given in ("", "/", "/absolute/x")},
        "x/": f"{tmp_path}/x",
        "/x//": "/x",
        "sub/": f"{tmp_path}/sub",
        ".": f"{tmp_path}",
        "sub/..": f"{tmp_path}",
    }
    for given, meant in forms.items():
        assert shown(noted, "mini", ["exp"], "--exp", given, cwd=tmp_path) == {"exp": meant}
        assert shown(noted, "mini", ["exp"], f"--exp={given}", cwd=tmp_path) == {"exp": meant}
    (tmp_path / "other" / "recipes").mkdir(parents=True)
    here = shown(noted, "mini", ["exp"], "--exp", "recipes/.", cwd=noted.root, CDPATH=str(tmp_path / "other"))
    assert here == {"exp": str(noted.root / "recipes")}


def test_a_list_among_the_overrides_is_relative_to_where_the_recipe_is_started(noted, tmp_path):
    words = [
        "augment.noise.list=my/noise",
        "augment.reverb.list=null",
        "model.name=my/x",
        "--lmf",
        "augment.noise.list=b",
    ]
    assert noted.recipe("mini", *words, cwd=tmp_path).returncode == 0
    (tuned,), (trained,) = fine_tunes(noted.calls())
    same = ["augment.reverb.list=null", "model.name=my/x"]
    assert overrides(trained) == [f"augment.noise.list={tmp_path}/my/noise", *same]
    assert overrides(tuned) == [f"augment.noise.list={tmp_path}/my/noise", *same, f"augment.noise.list={tmp_path}/b"]


def test_a_benchmark_takes_its_paths_from_where_it_is_started(noted, tmp_path):
    words = ["variants", "my.yaml", "out=o", "ages=null", "corpus=/c", "steps=3", "rows=[a/b]"]
    assert noted.recipe("benchmark", *words, cwd=tmp_path).returncode == 0
    here = [f"{tmp_path}/my.yaml", f"out={tmp_path}/o", "ages=null", "corpus=/c", "steps=3", "rows=[a/b]"]
    assert noted.calls() == [["python3", "recipes/benchmark/variants.py", *here]]


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--stage", "one"], "option --stage needs the number of a stage, not 'one'"),
        (["--stop-stage", "-1"], "option --stop-stage needs the number of a stage, not '-1'"),
        (["--stage="], "option --stage needs the number of a stage, not ''"),
        (["--stage", "3", "--stop-stage", "2"], "--stage 3 comes after the last one, 2"),
        (["--stgae", "1"], "unknown option --stgae"),
        (["--stage"], "option --stage needs a value"),
        (["--path", "x"], "unknown option --path"),
        (["--overrides", "x"], "unknown option --overrides"),
        (["--$(touch x)", "x"], "unknown option --$(touch x)"),
        (["lr"], "'lr' is neither an option nor key.sub=value"),
    ],
)
def test_a_mistake_is_refused_in_a_line_before_anything_runs(noted, words, expected):
    for name in WITH_STAGES:
        done = noted.recipe(name, *words)
        assert (done.returncode, done.stdout, noted.calls()) == (2, "", [])
        assert expected in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", WITH_STAGES)
def test_every_option_that_help_names_is_taken(noted, name):
    words = {"--stage": "98", "--stop-stage": "99", "--partial": "yes", "--lmf": "a.b=1"}
    named = options_of(name)
    assert len(named) >= 4
    for option in named:
        words.setdefault(option, "1")
    taken = list(itertools.chain.from_iterable((option, value) for option, value in words.items() if option in named))
    done = noted.recipe(name, *taken)
    assert (done.returncode, done.stderr, noted.calls()) == (0, "", [])


@pytest.mark.parametrize("name", SPEECH)
def test_the_fine_tune_has_its_own_margin_and_the_trainings_data_encoder_and_machine(noted, name):
    both = ["seed=3", "data.workers=0", "features.n_mels=40", "model.d_model=64", "training.threads=1",
            "training.device=cpu", "scoring.bootstrap=7", "head.scale=30", "augment.noise.probability=0"]  # fmt: skip
    trained_only = ["head.margin=0.3", "training.epochs=2", "batch.speakers=16", "optimizer.lr=0.1", "model.dropout=0",
                    "data.crop_seconds=1", "margin_schedule.end_epoch=1", "training={epochs: 2}"]  # fmt: skip
    lmf = ["head.margin=0.4", "training.epochs=1", "seed=4"]
    words = [*both, *trained_only, *itertools.chain.from_iterable(("--lmf", word) for word in lmf)]
    done = noted.recipe(name, *NEEDED.get(name, []), *words)
    assert done.returncode == 0, done.stderr
    tuned, trained = fine_tunes(noted.calls())
    assert len(tuned) == len(trained) == (2 if name == "speechocean762" else 1)
    assert [overrides(words) for words in trained] == [both + trained_only] * len(trained)
    assert [overrides(words) for words in tuned] == [both + lmf] * len(tuned)


def test_general_trains_three_times_each_time_from_the_model_before(noted):
    further = ["--lmf", "optimizer.lr=0.001"]
    done = noted.recipe("general", "head.scale=30", "training.epochs=2", "--exp", "exp/people", *further)
    assert done.returncode == 0, done.stderr
    trainings = [words for words in noted.calls() if words[1:2] == ["train"]]
    noise = "augment.noise.list=data/esc10/noise"
    assert [[word for word in words if word.startswith(("conf/", "exp/"))] for words in trainings] == [
        ["conf/general.yaml", "exp/people"],
        ["conf/general_voices.yaml", "exp/people_voices", "exp/people/model"],
        ["conf/general_lmf.yaml", "exp/people_lmf", "exp/people_voices/model"],
    ]
    assert [overrides(words) for words in trainings] == [
        [noise, "head.scale=30", "training.epochs=2"],
        [noise, "head.scale=30", "optimizer.lr=0.001"],
        [noise, "head.scale=30", "optimizer.lr=0.001"],
    ]


def test_a_mistake_in_what_the_fine_tune_is_given_is_told_before_the_training(noted):
    assert noted.recipe("mini", "--stop-stage", "1", "seed=2", "--lmf", "head.margni=0.4").returncode == 0
    _, checked, trained = noted.calls()
    assert checked == ["spkver", "config", "conf/mini_lmf.yaml", "seed=2", "head.margni=0.4"]
    assert trained[1] == "train"
    done = noted.recipe("mini", "--lmf", "margin")
    assert done.returncode == 2
    assert "option --lmf needs key.sub=value, not 'margin'" in done.stderr


def keys(section: type[Section], prefix: str = ""):
    for name, field in section.model_fields.items():
        # Of several kinds of a section the one that is taken unless another is named; those of the head stand apart.
        if isinstance(field.default, Section) and name != "head":
            yield from keys(type(field.default), f"{prefix}{name}.")
        else:
            yield prefix + name


def flat(values: dict, prefix: str = ""):
    for name, value in values.items():
        yield from flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]


def test_what_the_fine_tunes_configurations_set_is_never_taken_from_the_training(noted):
    heads = [f"head.{name}" for head in (ArcMargin, IntertopkSubcenter) for name in head.model_fields]
    every = [key for key in dict.fromkeys([*keys(Config), *heads]) if key != "head"]
    noted.recipe("mini", *(f"{key}=1" for key in every))
    (tuned,), _ = fine_tunes(noted.calls())
    taken = {word.partition("=")[0] for word in overrides(tuned)}
    set_there = set()
    for path in (ROOT / "conf").glob("*lmf.yaml"):
        set_there.update(key for key in flat(yaml.safe_load(path.read_text())) if key != "base")
    assert set_there and not taken & set_there
    # Of the rest only what says how a training goes stays with it.
    assert set(every) - taken - set_there == {
        "batch.utterances", "head.mp", "head.k_top", "init.head", "init.utterances", "init.subcenter_spread",
        "margin_schedule.initial", "model.average_spectrum_dropout", "optimizer.name", "optimizer.weight_decay",
        "optimizer.betas", "optimizer.momentum", "optimizer.freeze", "optimizer.lr_factors", "training.clip_norm",
        "training.sampled_share",
    }  # fmt: skip


@pytest.fixture
def clone(tmp_path):
    """A checkout whose code can be told from the one that is installed."""
    root = tmp_path / "clone"
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    for part in ("recipes", "spkver"):
        shutil.copytree(ROOT / part, root / part, ignore=ignored)
    (root / "spkver" / "__init__.py").write_text('__version__ = "of this clone"\n')
    return root


def version_after_set_up(clone, **environment):
    body = '. recipes/common.sh; set_up ""; spkver --version; python3 -m spkver --version'
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, **environment}
    return subprocess.run(
        ["bash", "-euc", body], cwd=clone, env=environment, capture_output=True, text=True, timeout=60
    )


def test_a_recipe_runs_the_code_of_its_own_checkout_and_says_so_where_another_is_installed(clone):
    done = version_after_set_up(clone)
    assert done.returncode == 0, done.stderr
    said, *versions = done.stdout.splitlines()
    assert said.split(maxsplit=1)[1].startswith(f"the code of {clone} runs, not what is installed here (")
    assert versions[-2:] == ["spkver of this clone"] * 2
    assert "its kernels are not compiled" in versions[0]
    # Nothing is said where it is this checkout's that is installed, or that is looked for first.
    done = version_after_set_up(clone, PYTHONPATH=str(clone))
    assert done.stdout.splitlines() == ["spkver of this clone"] * 2


def test_an_environment_that_was_copied_with_its_checkout_is_installed_anew(noted):
    root = noted.root
    (root / "spkver" / "native").mkdir(parents=True)
    (root / "spkver" / "native" / "kernels.h").write_text("int kernels;\n")
    (root / "pyproject.toml").write_text("[project]\n")
    programs = root / ".venv" / "bin"
    programs.mkdir(parents=True)
    python, command = programs / "python", programs / "spkver"
    # What pip does is to write the command, which names its Python.
    python.write_text(f"#!/bin/sh\necho installs\nprintf '#!%s\\n' '{python}' >'{command}'\n")
    for program, text in ((python, python.read_text()), (command, "#!/somewhere/else/.venv/bin/python\n")):
        program.write_text(text)
        program.chmod(0o755)
    (root / ".venv" / "spkver-core").write_text("[project]\nint kernels;\n")
    starts = [noted.start("bash", "-euc", '. recipes/common.sh; set_up ""', PYTHON="true") for _ in range(2)]
    assert [done.stdout.count("installs\n") for done in starts] == [1, 0], starts


def git(*words, cwd):
    subprocess.run(
        ["git", "-c", "user.name=n", "-c", "user.email=e", *words], cwd=cwd, check=True, capture_output=True, timeout=60
    )


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_clone_with_the_line_ends_of_windows_has_those_that_bash_reads(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for part in ("recipes", "docs", "conf", "tests"):
        shutil.copytree(ROOT / part, first / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".gitattributes", first)
    git("init", "-q", cwd=first)
    git("add", ".", cwd=first)
    git("commit", "-qm", "all", cwd=first)
    git("-c", "core.autocrlf=true", "-c", "core.eol=crlf", "clone", "-q", first, second, cwd=tmp_path)
    files = [path.relative_to(first) for part in ("recipes", "docs", "conf", "tests")
             for path in sorted((first / part).rglob("*")) if path.is_file()]  # fmt: skip
    assert len(files) > 100 and any(path.suffix == ".png" for path in files)
    for path in files:
        assert (second / path).read_bytes() == (first / path).read_bytes(), path
    done = subprocess.run(["bash", second / "recipes/mini/run.sh", "--help"], capture_output=True, timeout=60)
    assert done.returncode == 0


BY_ALL = ("train", "average", "embed")


@pytest.mark.parametrize(
    ("words", "how"),
    [
        (["--processes", "3"], ["--standalone", "--nproc-per-node", "3"]),
        (["--torchrun", "--nnodes 2 --rdzv-endpoint a:1"], ["--nnodes", "2", "--rdzv-endpoint", "a:1"]),
    ],
)
@pytest.mark.parametrize("name", SPEECH)
def test_what_a_recipe_computes_on_gpus_runs_in_as_many_processes_as_asked(noted, name, words, how):
    done = noted.recipe(name, *NEEDED.get(name, []), *words)
    assert done.returncode == 0, done.stderr
    calls = noted.calls()
    by_all = ["python3", "-m", "torch.distributed.run", *how, "-m", "spkver"]
    together = [call[len(by_all) :] for call in calls if call[: len(by_all)] == by_all]
    trainings, averages, embeddings = ([call for call in together if call[0] == verb] for verb in BY_ALL)
    assert len(trainings) >= 2 and "--init" in trainings[1]
    assert len(averages) == len(trainings) and len(embeddings) >= 2
    assert not any(call[0] == "spkver" and call[1] in BY_ALL for call in calls)


def test_processes_are_a_number(noted):
    done = noted.recipe("mini", "--processes", "some")
    assert done.returncode == 2 and "--processes needs their number, not 'some'" in done.stderr
