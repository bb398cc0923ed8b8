"""Configuration: what a file, its bases and overrides give, and what a mistake looks like."""

import inspect
import time
from pathlib import Path

import pytest
import yaml

from spkver.config import Config, dump_config, load_config, load_run, schema
from spkver.config.load import _Loader
from spkver.errors import SpkverError
from spkver.features import Fbank
from spkver.heads import ArcMarginProduct, ArcMarginProductIntertopkSubcenter, NormFace
from spkver.models import SpeechEncoderV3

CONF = Path(__file__).resolve().parents[2] / "conf"
BASE = CONF / "base.yaml"


def message(path, *overrides):
    with pytest.raises(SpkverError) as caught:
        load_config(path, list(overrides))
    text = str(caught.value)
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_is_valid_and_its_dump_reads_back(path, tmp_path):
    config = load_config(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_config(config, {"torch": "2"}))
    assert load_config(copy) == config


@pytest.mark.parametrize("path", sorted(CONF.glob("*_lmf.yaml")), ids=lambda path: path.stem)
def test_a_large_margin_fine_tune_has_what_it_is_named_for(path):
    source = "general_voices.yaml" if path.stem == "general_lmf" else path.name.replace("_lmf", "")
    config, before = load_config(path), load_config(path.with_name(source))
    assert config.head.margin == 0.5
    assert config.data.crop_seconds > before.data.crop_seconds
    assert config.optimizer.lr < before.optimizer.lr / 2
    assert config.augment.speed_factors == config.augment.formant_factors == [1.0]
    assert getattr(config.head, "do_lm", True)
    dropped = {"dropout", "layer_drop", "embedding_dropout"}  # may differ: no weight depends on them
    assert config.model.model_dump(exclude=dropped) == before.model.model_dump(exclude=dropped)
    assert (config.features, config.data.held_out_speakers, config.seed) == (
        before.features,
        before.data.held_out_speakers,
        before.seed,
    )


def test_a_file_changes_only_what_it_names(tmp_path):
    (tmp_path / "middle.yaml").write_text(f"base: {BASE}\noptimizer: {{lr: 0.5}}\n")
    (tmp_path / "top.yaml").write_text("base: middle.yaml\nbatch: {speakers: 3}\n")
    config = load_config(tmp_path / "top.yaml", ["seed=9"])
    before = load_config(BASE)
    assert (config.optimizer.lr, config.batch.speakers, config.seed) == (0.5, 3, 9)
    assert config.optimizer.betas == before.optimizer.betas
    assert config.model == before.model


def test_of_several_bases_a_later_one_changes_what_an_earlier_one_says(tmp_path):
    (tmp_path / "over.yaml").write_text("optimizer: {lr: 0.5}\nseed: 5\n")
    (tmp_path / "top.yaml").write_text(f"base: [{BASE}, over.yaml]\nseed: 6\n")
    config, before = load_config(tmp_path / "top.yaml"), load_config(BASE)
    assert (config.optimizer.lr, config.seed) == (0.5, 6)
    assert config.optimizer.betas == before.optimizer.betas
    (tmp_path / "top.yaml").write_text(f"base: [over.yaml, {BASE}]\n")
    assert load_config(tmp_path / "top.yaml") == before


def test_lists_of_bases_that_have_lists_of_bases_end(tmp_path):
    for level in range(40):
        (tmp_path / f"{level}.yaml").write_text(f"base: [{level + 1}.yaml, {level + 1}.yaml]\n")
    (tmp_path / "40.yaml").write_text("seed: 1\n")
    assert message(tmp_path / "0.yaml") == "has more than 99 bases"


def test_another_head_starts_its_section_anew(tmp_path):
    assert load_config(BASE, ["head={name: normface, scale: 30.0}"]).head.model_dump() == {
        "name": "normface",
        "scale": 30.0,
    }
    assert load_config(BASE, ["head.name=softmax"]).head.name == "softmax"


def test_rotary_position_needs_heads_of_even_width():
    assert load_config(BASE, ["model.position=rotary"]).model.position == "rotary"
    found = message(BASE, "model.position=rotary", "model.d_model=12", "model.n_heads=4")
    assert found == "key 'model.n_heads' must leave an even width of d_model 12 for position rotary, got 4"


def test_numbers_in_scientific_notation_are_numbers():
    assert load_config(BASE, ["optimizer.lr=1e-3"]).optimizer.lr == 0.001
    assert load_config(BASE, ["optimizer.lr=2E-4"]).optimizer.lr == 0.0002


@pytest.mark.parametrize(
    "override, expected",
    [
        ("optimiser.lr=1.0", "unknown key 'optimiser' (did you mean 'optimizer'?)"),
        ("optimizer.ler=1.0", "unknown key 'optimizer.ler' (did you mean 'optimizer.lr'?)"),
        ("lr=1.0", "unknown key 'lr' (did you mean 'optimizer.lr'?)"),
        (
            "head.K=3",
            "unknown key 'head.K' (valid here: head.name, head.scale, head.margin, head.easy_margin)",
        ),
        ("head.magin=0.1", "unknown key 'head.magin' (did you mean 'head.margin'?)"),
        ("optimizer.lr=fast", "key 'optimizer.lr' must be a number, got 'fast'"),
        ("optimizer.lr=-1.0", "key 'optimizer.lr' must be greater than 0, got -1.0"),
        ("batch.speakers=1.5", "key 'batch.speakers' must be an integer, got 1.5"),
        ("data.workers=-1", "key 'data.workers' must be auto or a number of processes, 0 or more, got -1"),
        ("data.workers=true", "key 'data.workers' must be auto or a number of processes, 0 or more, got True"),
        (
            "training.precision=half",
            "key 'training.precision' must be 'auto', 'bfloat16', 'float16' or 'float32', got 'half'",
        ),
        (
            "head.name=arcface",
            "key 'head.name' must be one of softmax, normface, arc_margin, intertopk_subcenter, got 'arcface'",
        ),
        ("data=3", "key 'data' must be a section, got 3"),
        ("model.n_heads=7", "key 'model.n_heads' must divide d_model 256, got 7"),
        (
            "model.time_strides=[1,2,2]",
            "key 'model.time_strides' must have one value for each of channels [32, 64], got [1, 2, 2]",
        ),
        (
            "augment.speed_factors=[0.9]",
            "key 'augment.speed_factors' must begin with 1.0 and name no factor twice, got [0.9]",
        ),
        ("augment.noise.snr_db=[9, 3]", "key 'augment.noise.snr_db' must be [lowest, highest], got [9, 3]"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(override, expected):
    assert message(BASE, override) == expected


def test_a_missing_file_is_named(tmp_path):
    assert message(tmp_path / "none.yaml").startswith("cannot be read")


def test_faulty_yaml_names_the_line(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("seed: 1\ndata: [1\n")
    assert str(path) in message(path)
    path.write_text("seed: 1\nseed: 2\n")
    assert message(path) == f"{path}:2: key 'seed' is given twice".removeprefix(f"{path}: ")
    path.write_text("- 1\n")
    assert "must hold 'key: value' lines" in message(path)
    path.write_text("base: c.yaml\n")
    assert message(path) == "its 'base' leads back to itself"


def test_an_override_without_equals_is_explained():
    with pytest.raises(SpkverError, match=r"^override 'seed': must look like key.sub=value$"):
        load_config(BASE, ["seed"])


def test_yaml_cannot_make_objects(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("seed: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(SpkverError):
        load_config(path)


def test_a_key_that_is_not_given_has_its_default_and_a_stored_run_the_value_from_before_the_key(tmp_path):
    content = load_config(BASE).model_dump()
    del content["scoring"]["norm"], content["optimizer"]["momentum"], content["snapshots"], content["optimizer"]["lr"]
    content["model"].pop("aggregate_layers")
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    assert load_config(tmp_path / "own.yaml") == load_config(BASE)
    (tmp_path / "stored.yaml").write_text(yaml.safe_dump(content | {"run": {"commit": "abc"}}))
    stored = load_config(tmp_path / "stored.yaml")
    assert stored.model.aggregate_layers is False
    assert stored.optimizer.momentum == 0.9
    assert stored.snapshots.speakers == 0
    assert stored.scoring.norm.top_n == 50
    assert stored.optimizer.lr == load_config(BASE).optimizer.lr


def test_a_renamed_key_is_read_from_a_stored_run_and_named_to_a_user(tmp_path):
    variants = [[1.0, 1.0], [0.9, 0.9]]
    content = load_config(BASE).model_dump()
    del content["scoring"]["variants"]
    content["scoring"]["views"] = variants
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    assert message(tmp_path / "c.yaml") == "unknown key 'scoring.views' (it is 'scoring.variants' now)"
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content | {"run": {"commit": "abc"}}))
    assert load_config(tmp_path / "c.yaml").scoring.variants == variants


def test_defaults_of_the_schema_are_those_that_base_yaml_shows():
    shown = yaml.load(BASE.read_text(), Loader=_Loader)
    assert same_keys(shown, Config().model_dump())
    assert load_config(BASE) == Config()


def same_keys(one, other):
    return not isinstance(one, dict) or (
        one.keys() == other.keys()
        and all(key == "lr_factors" or same_keys(value, other[key]) for key, value in one.items())
    )


@pytest.mark.parametrize(
    ("built", "section"),
    [
        (SpeechEncoderV3, Config().model),
        (Fbank, Config().features),
        (ArcMarginProduct, schema.ArcMargin()),
        (ArcMarginProductIntertopkSubcenter, schema.IntertopkSubcenter()),
        (NormFace, schema.NormFace()),
    ],
)
def test_what_is_built_in_python_has_the_defaults_of_the_configuration(built, section):
    # Of the features, what is done to filterbanks when they are made.
    values = section.model_dump(exclude={"name", "mean_normalisation"} | ({"scale"} if built is Fbank else set()))
    parameters = inspect.signature(built).parameters
    defaults = {name: parameters[name].default for name in values}
    assert {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()} == values


def test_shipped_heads_have_the_defaults_of_the_schema():
    assert load_config(CONF / "intertopk.yaml").head == schema.IntertopkSubcenter()


def test_a_key_of_the_default_head_needs_no_name(tmp_path):
    (tmp_path / "c.yaml").write_text("head: {margin: 0.3}\n")
    assert load_config(tmp_path / "c.yaml").head == schema.ArcMargin(margin=0.3)
    (tmp_path / "c.yaml").write_text("head: {name: intertopk_subcenter, K: 2}\n")
    assert load_config(tmp_path / "c.yaml").head == schema.IntertopkSubcenter(K=2)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BOMB + "seed: *a11\n", "comes to more than 20000 values"),
        (MERGE_BOMB, "comes to more than 20000 values"),
        ("seed: &a [*a]\n", "an alias leads back to itself"),
        ("seed: " + "[" * 5000, "nested too deeply"),
        ("seed: " + "[" * 50 + "]" * 50, "nested too deeply"),
        ("? [a, b]\n: c\n", "a key must be a word"),
        ("{a: 1}: c\n", "a key must be a word"),
        ("1: 2\n", "key"),
        ("seed: 2020-99-99\n", "holds a value that is none"),
        ("seed: !!timestamp x\n", "holds a value that is none"),
        ("seed: !!int x\n", "holds a value that is none"),
        ("seed: !!int ''\n", "holds a value that is none"),
        ("seed: !!bool x\n", "holds a value that is none"),
        ("seed: " + "9" * 5000 + "\n", "holds a value that is none"),
        ("seed: 2020-01-01\n", "seed"),
        ("seed: !!python/object/apply:os.system [id]\n", "could not determine a constructor"),
        ("seed: \0\n", "special characters are not allowed"),
        ("seed: " + "x" * 100_000 + "\n", "key 'seed' must be an integer"),
        ("x" * 1000 + ": 1\n", "unknown key"),
        ("seed: 1\n" * 200_000, "has more than 1 MB"),
        ("base: /dev/zero\n", "/dev/zero: is no file; a 'base' must be"),
        ('base: "a\\0b"\n', "null byte"),
        ("base: .\n", "is no file"),
        ("base: [3]\n", "key 'base' must be the path"),
        ("base: []\n", "key 'base' must be the path"),
        ("run: [1]\n", "key 'run' must be a section"),
        ("run: {threshold: x}\n", "key 'run.threshold' must be a finite number"),
        ("run: {threshold: .nan}\n", "key 'run.threshold' must be a finite number"),
        ("run: {threshold: " + "9" * 400 + "}\n", "key 'run.threshold' must be a finite number"),
        ("run: {data: 3}\n", "key 'run.data' must be text"),
    ],
)
def test_what_no_configuration_holds_is_one_short_line(tmp_path, text, expected):
    path = tmp_path / "c.yaml"
    path.write_text(text if text.startswith("base") else f"base: {BASE}\n{text}")
    start = time.monotonic()
    said = message(path)
    assert expected in said
    assert len(said) < 500
    assert time.monotonic() - start < 10


def test_a_device_without_end_is_no_configuration():
    with pytest.raises(SpkverError, match="/dev/zero: has more than 1 MB"):
        load_config("/dev/zero")


def test_bases_that_lead_in_a_circle_are_named(tmp_path):
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    assert "its 'base' leads back to itself" in message(tmp_path / "a.yaml")
    (tmp_path / "link.yaml").symlink_to(tmp_path / "link.yaml")
    assert "cannot be read" in message(tmp_path / "link.yaml")


def test_anchors_as_people_write_them_are_read(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(f"base: {BASE}\naugment: {{speed_factors: &one [1.0], formant_factors: *one}}\n")
    assert load_config(path).augment.formant_factors == [1.0]


def test_what_a_run_wrote_beside_its_configuration_is_read_back(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        dump_config(load_config(BASE), {"threshold": 0.5, "data": "d", "init": None, "epochs_averaged": [1]})
    )
    config, run = load_run(path)
    assert config == load_config(BASE)
    assert run == {"threshold": 0.5, "data": "d", "init": None, "epochs_averaged": [1]}
    assert load_run(BASE)[1] == {}
