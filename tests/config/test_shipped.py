"""Configurations that come with spkver are found by their names, from anywhere."""

import pytest

from spkver.config import load_config
from spkver.config.shipped import CONFIGURATIONS, titles
from spkver.errors import SpkverError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_name_is_the_configuration_that_comes_with_spkver():
    expected = load_config(CONFIGURATIONS / "mini.yaml", ["seed=7"])
    assert load_config("mini", ["seed=7"]) == load_config("mini.yaml", ["seed=7"]) == expected


def test_a_base_is_looked_for_beside_the_file_first(elsewhere):
    (elsewhere / "mine.yaml").write_text("base: [mini.yaml, lmf.yaml]\n")
    assert load_config("mine.yaml").head.margin == 0.5
    assert load_config("mine.yaml").model == load_config("mini").model
    (elsewhere / "lmf.yaml").write_text("head: {margin: 0.4}\n")
    assert load_config("mine.yaml").head.margin == 0.4


def test_a_file_of_ones_own_comes_before_a_shipped_one_and_a_folder_does_not(elsewhere):
    (elsewhere / "mini").mkdir()
    assert load_config("mini") == load_config(CONFIGURATIONS / "mini.yaml")
    (elsewhere / "mini.yaml").write_text("seed: 5\n")
    assert load_config("mini.yaml").seed == 5


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("minni", "did you mean 'mini'?"),
        ("conf/voxceleb.yaml", "did you mean 'voxceleb'?"),
        ("wavlm", "did you mean 'encoders/wavlm'?"),
        ("something/else.yaml", "`spkver config --list` names those that come with spkver"),
    ],
)
def test_a_name_that_is_none_gets_the_nearest_one(name, advice):
    with pytest.raises(SpkverError, match="cannot be read") as caught:
        load_config(name)
    assert str(caught.value).endswith(f"({advice})")


def test_the_list_has_every_configuration_with_its_first_sentence():
    own = {path.stem for path in CONFIGURATIONS.glob("*.yaml")}
    assert titles().keys() == own | {f"encoders/{path.stem}" for path in CONFIGURATIONS.glob("encoders/*.yaml")}
    assert titles()["mini"] == "The built-in corpus: a small encoder, a few minutes on a laptop"
    assert titles()["finetune"] == "A trained model goes on with other speakers, or with more of them"
