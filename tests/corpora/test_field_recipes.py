"""The recipes of VoxCeleb, LibriSpeech and CN-Celeb from stage 0 to the table, on miniatures of the true layout."""

import json

import pytest
import yaml

SYSTEMS = {"cosine", "cosine+asnorm", "cosine+asnorm+calibration", "plda"}


@pytest.fixture
def small_run(tiny_config, tmp_path):
    """Words for a recipe that trains a tiny model in two epochs; ``musan`` and ``rirs_noises`` are listed below."""
    noise, reverb = tmp_path / "musan" / "noise_and_music", tmp_path / "rirs_noises" / "simulated_rirs"
    augmented = {
        "base": str(tiny_config),
        "training": {"epochs": 1, "keep_last": 1, "average_last": 1},
        "batch": {"speakers": 4},
        "scoring": {"norm": {"top_n": 3}, "plda": {"lda_dim": 4}},
        "augment": {
            "noise": {"probability": 0.4, "list": str(noise)},
            "reverb": {"probability": 0.4, "list": str(reverb)},
        },
    }
    plain = {**augmented, "augment": {"speed_factors": [1.0]}, "head": {"margin": 0.5}}
    for name, content in (("small", augmented), ("small_lmf", plain)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    words = ["--exp", tmp_path / "exp", "--data", tmp_path / "data", "--partial", "yes"]
    return [*words, "--config", tmp_path / "small.yaml", "--lmf-config", tmp_path / "small_lmf.yaml"]


def held_to(done, tmp_path, lists):
    """What every recipe must leave behind: all systems on all lists, of both models, and a row each in the table."""
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    table = done.stdout.rpartition("results\n")[2]
    for exp in ("exp", "exp_lmf"):
        metrics = json.loads((tmp_path / exp / "metrics.json").read_text())
        assert set(metrics) == {f"test/{name}" for name in lists}
        for name, systems in metrics.items():
            assert set(systems) == SYSTEMS
            assert f"{name}: {systems['cosine']['targets']} target" in table
        assert all(f"{exp}, {system} " in table for system in SYSTEMS)
    return metrics


@pytest.mark.parametrize("processes", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_voxceleb_goes_from_the_copy_to_a_table_with_vox1_o_e_and_h(
    run_recipe, voxceleb, musan, rirs, small_run, tmp_path, processes
):
    own = [
        "--musan",
        musan,
        "--rirs",
        rirs,
        "--musan-lists",
        tmp_path / "musan",
        "--rirs-lists",
        tmp_path / "rirs_noises",
    ]
    lists = ["vox1_O_cleaned", "vox1_E", "vox1_H_cleaned"]
    own += ["--shards", tmp_path / "shards", "--processes", processes]
    done = run_recipe("voxceleb", "--corpus", voxceleb, "--lists", " ".join(lists), *small_run, *own)
    metrics = held_to(done, tmp_path, lists)
    assert (tmp_path / "shards" / "train" / "shards" / "shard-000000.tar").is_file()
    assert "shards/train\n" in (tmp_path / "exp_lmf" / "config.yaml").read_text()
    assert metrics["test/vox1_O_cleaned"]["cosine"]["targets"] == 12
    assert metrics["test/vox1_E"]["cosine"]["nontargets"] == 21
    trained = (tmp_path / "data" / "train" / "spk2utt").read_text()
    assert "id00012" in trained and "id10" not in trained


@pytest.mark.slow
def test_librispeech_goes_from_the_copy_to_a_table(run_recipe, librispeech, small_run, tmp_path):
    config = tmp_path / "small.yaml"
    config.write_text(
        yaml.safe_dump({**yaml.safe_load(config.read_text()), "augment": {"reverb": {"probability": 0.3}}})
    )
    done = run_recipe("librispeech", "--corpus", librispeech, "--targets", "20", "--nontargets", "30", *small_run)
    metrics = held_to(done, tmp_path, ["test-clean", "test-other"])
    assert [metrics["test/test-other"]["cosine"][kind] for kind in ("targets", "nontargets")] == [20, 30]


@pytest.mark.slow
def test_cnceleb_enrols_from_several_recordings_and_from_one(run_recipe, cnceleb, musan, rirs, small_run, tmp_path):
    own = [
        "--musan",
        musan,
        "--rirs",
        rirs,
        "--musan-lists",
        tmp_path / "musan",
        "--rirs-lists",
        tmp_path / "rirs_noises",
    ]
    done = run_recipe("cnceleb", "--corpus", cnceleb, *small_run, *own)
    metrics = held_to(done, tmp_path, ["eval_concatenated", "eval_several"])
    several, one = metrics["test/eval_several"]["cosine"], metrics["test/eval_concatenated"]["cosine"]
    assert (several["targets"], several["nontargets"]) == (one["targets"], one["nontargets"]) == (6, 12)
    assert several["threshold"] != one["threshold"]
