"""Writes what `tests/test_stored_runs.py` reads: a small run with all that hangs on it, by the spkver of one version.

    git worktree add /tmp/then COMMIT
    PYTHONPATH=/tmp/then OMP_NUM_THREADS=1 python tests/stored/make.py tests/stored/COMMIT

The folder gets ``exp`` (configuration, log, the state after the first of two epochs, the final model with its back end,
embeddings, scores, metrics), ``store`` (a speaker store) and ``expected.json``, what this version made of recordings.
Once written, a folder stays as it is: it stands for the files that people have.
"""

import json
import shutil
import sys
import tempfile
import wave
from pathlib import Path

import numpy as np

TRAIN = [f"v{number}" for number in range(8)]
TEST = ["anna", "bob", "carl", "dora"]
TAKES = 4


def write_voices(folder: Path) -> None:
    """The data directories ``folder/train`` and ``folder/test``: made-up voices, in integers alone.

    So the files are the same to the byte on every machine.
    """
    for name, speakers in (("train", TRAIN), ("test", TEST)):
        data = folder / name
        (data / "wav").mkdir(parents=True)
        utts = [(f"{speaker}-{take}", speaker) for speaker in speakers for take in range(TAKES)]
        for utt, speaker in utts:
            _write_voice(data / "wav" / f"{utt}.wav", speaker, int(utt.split("-")[1]))
        (data / "wav.scp").write_text("".join(f"{utt} wav/{utt}.wav\n" for utt, _ in utts))
        (data / "utt2spk").write_text("".join(f"{utt} {speaker}\n" for utt, speaker in utts))
        (data / "spk2gender").write_text("".join(f"{speaker} {'fm'[n % 2]}\n" for n, speaker in enumerate(speakers)))
        pairs = [(a, b) for a in utts if a[0][-1] in "01" for b in utts if b[0][-1] in "23"]
        (data / "trials").write_text("".join(f"{int(a[1] == b[1])} {a[0]} {b[0]}\n" for a, b in pairs))


def _write_voice(path: Path, speaker: str, take: int) -> None:
    """One period of a voice's own, again and again, in syllables of changing loudness, and some noise."""
    own, said = np.random.default_rng(list(speaker.encode())), np.random.default_rng([*speaker.encode(), take])
    period = np.cumsum(own.integers(-1500, 1501, own.integers(70, 180)))
    n = 12000 + 800 * take
    loudness = np.repeat(said.integers(1, 9, n // 800 + 1), 800)[:n]
    samples = np.resize(period - period.sum() // len(period), n) * loudness // 8 + said.integers(-200, 201, n)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.clip(samples, -32000, 32000).astype("<i2").tobytes())


CONFIG = """
base: {base}
data: {{crop_seconds: 0.4, held_out_speakers: 4, workers: 0}}
batch: {{speakers: 4}}
augment: {{speed_factors: [1.0, 0.9], babble: {{probability: 0.3}}, reverb: {{probability: 0.3}}}}
features: {{n_mels: 20}}
model: {{channels: [4, 4], groups: 2, d_model: 8, n_layers: 1, n_heads: 2, feedforward: 16, position_kernel: 5,
         pooling_hidden: 4, embed_dim: 8}}
head: {{name: intertopk_subcenter, scale: 32.0, margin: 0.2, easy_margin: false, K: 2, mp: 0.06, k_top: 2,
        do_lm: false}}
optimizer: {{lr: 0.01}}
lr_schedule: {{warmup_epochs: 0.5}}
margin_schedule: {{start_epoch: 0, end_epoch: 2}}
training: {{epochs: 2, keep_last: 2, average_last: 2, precision: float32, device: cpu, threads: 1}}
snapshots: {{speakers: 2, utterances: 2}}
scoring: {{bootstrap: 20, norm: {{top_n: 3}}, plda: {{lda_dim: 3}}}}
"""
SYSTEMS = ("cosine", "cosine+asnorm", "plda", "cosine+calibration", "cosine+asnorm+calibration")


def make(folder: Path, work: Path) -> None:
    import spkver
    from spkver.cli import main
    from spkver.training import checkpoint

    def run(*words) -> None:
        assert main([str(word) for word in words]) == 0, words

    write_voices(work)
    train, test, exp = work / "train", work / "test", work / "exp"
    (work / "run.yaml").write_text(CONFIG.format(base=Path(spkver.__file__).parent.parent / "conf" / "base.yaml"))
    save_state = checkpoint.save_state

    def and_keep_the_first(checkpoints: Path, state: dict) -> None:
        save_state(checkpoints, state)
        if (state["epoch"], state["step"]) == (1, 0):
            shutil.copy(checkpoints / "last.pt", work / "first.pt")

    checkpoint.save_state = and_keep_the_first
    run("train", work / "run.yaml", "--data", train, "--exp", exp)
    shutil.move(work / "first.pt", exp / "checkpoints" / "last.pt")
    run("average", exp)
    for data in (train, test):
        run("embed", data, exp)
    run("score", test, exp)
    run("norm", test, exp, "--train", train)
    run("plda", test, exp, "--train", train)
    for system in ("cosine", "cosine+asnorm"):
        run("calibrate", test, exp, "--train", train, "--system", system)
    for system in SYSTEMS:
        run("evaluate", test, exp, "--system", system)
    store = spkver.SpeakerStore(work / "store", exp / "model")
    for speaker in TEST[:3]:
        store.enroll(speaker, [test / "wav" / f"{speaker}-{take}.wav" for take in range(2)])
    (work / "expected.json").write_text(json.dumps(_expected(work), indent=1) + "\n")

    folder.mkdir(parents=True)
    left_out = shutil.ignore_patterns(".*", "tensorboard", "epoch-*.safetensors")
    for name in ("exp", "store"):
        shutil.copytree(work / name, folder / name, ignore=left_out)
    for weights in (folder / "exp" / "untrained").glob("*.safetensors"):
        weights.unlink()
    shutil.copy(work / "expected.json", folder)


def _expected(work: Path) -> dict:
    """What this version makes of the test recordings."""
    import spkver

    wav = work / "test" / "wav"
    voice = spkver.load(work / "exp" / "model")
    store = spkver.SpeakerStore(work / "store", voice)
    return {
        "threshold": voice.threshold,
        "embeddings": {utt: voice.embed(wav / f"{utt}.wav").tolist() for utt in ("anna-0", "dora-3")},
        "score": voice.verify(wav / "anna-0.wav", wav / "anna-3.wav").score,
        "identified": store.identify(wav / "anna-3.wav").scores,
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="stored-") as made_in:
        make(Path(sys.argv[1]).absolute(), Path(made_in))
