"""`spkver pack`: the same samples, taken up again, by several processes; and shards of others as they are."""

import io
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

from spkver.cli import main
from spkver.config import load_config
from spkver.data import packing
from spkver.data.audio import read_audio
from spkver.data.audio_check import keep_usable
from spkver.data.dataset import SpeakerCrops
from spkver.data.directory import Utterance, read_data_directory, write_data_directory
from spkver.data.sampler import SpeakerBatchSampler

SUBTYPES = {
    "pcm16.wav": ("WAV", "PCM_16", 1),
    "stereo.wav": ("WAV", "PCM_16", 2),
    "pcm24.wav": ("WAV", "PCM_24", 1),
    "pcm32.wav": ("WAV", "PCM_32", 1),
    "u8.wav": ("WAV", "PCM_U8", 1),
    "float.wav": ("WAV", "FLOAT", 1),
    "mulaw.wav": ("WAV", "ULAW", 1),
    "pcm16.flac": ("FLAC", "PCM_16", 1),
    "pcm24.flac": ("FLAC", "PCM_24", 1),
    "s8.flac": ("FLAC", "PCM_S8", 1),
    "sound.aiff": ("AIFF", "PCM_16", 1),
    "vorbis.ogg": ("OGG", "VORBIS", 1),
    "layer3.mp3": ("MP3", "MPEG_LAYER_III", 1),
}


def directory_of_every_form(folder):
    time = np.arange(24000) / 16000
    utterances = []
    for place, (name, (form, subtype, channels)) in enumerate(SUBTYPES.items()):
        tone = np.sin(2 * np.pi * (150 + 20 * place) * time * (1 + 0.2 * np.sin(9 * time))) * np.abs(np.sin(7 * time))
        samples = 0.4 * tone + 0.01 * np.random.default_rng(place).standard_normal(len(time))
        path = folder / "wav" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(
            path, np.stack([samples * (1 - 0.3 * c) for c in range(channels)], 1), 16000, subtype, format=form
        )
        utterances.append(Utterance(f"s{place % 3}/{name}", path, f"s{place % 3}"))
    write_data_directory(folder, utterances)
    (folder / "trials").write_text("1 s0/pcm16.wav s0/pcm32.wav\n")
    return folder


@pytest.fixture(scope="module")
def every_form(tmp_path_factory):
    return directory_of_every_form(tmp_path_factory.mktemp("forms"))


@pytest.mark.parametrize(
    "audio_format, suffixes",
    [
        ("flac", "flac flac flac wav flac wav flac flac flac flac flac ogg mp3"),
        ("wav", "wav wav wav wav wav wav wav wav wav wav wav ogg mp3"),
    ],
)
def test_every_form_of_audio_has_the_same_samples_in_shards(every_form, tmp_path, audio_format, suffixes):
    assert main(["pack", str(every_form), str(tmp_path / "out"), "--format", audio_format]) == 0
    before, after = read_data_directory(every_form), read_data_directory(tmp_path / "out")
    for one, other in zip(before.utterances, after.utterances, strict=True):
        assert (one.id, one.speaker) == (other.id, other.speaker)
        assert np.array_equal(read_audio(one.path, 16000), read_audio(other.path, 16000)), one.id
    with tarfile.open(tmp_path / "out" / "shards" / "shard-000000.tar") as tar:
        names = tar.getnames()
    assert [name.rpartition(".")[2] for name in names[1::2]] == suffixes.split()
    assert names[0] == "s0/pcm16.wav.spk"
    assert (tmp_path / "out" / "trials").read_text() == (every_form / "trials").read_text()


def test_the_index_says_where_each_utterance_lies_and_how_long_it_is(packed_voices):
    n = 0
    for index in sorted((packed_voices / "shards").glob("*.tsv")):
        header, *lines = index.read_text().splitlines()
        assert header == "utterance\tspeaker\toffset\tsize\tframes\trate"
        shard = index.with_suffix(".tar").read_bytes()
        for line in lines:
            utt, speaker, offset, size, frames, rate = line.split("\t")
            samples, found_rate = soundfile.read(io.BytesIO(shard[int(offset) :][: int(size)]))
            assert (len(samples), found_rate) == (int(frames), int(rate))
            assert utt.startswith(f"{speaker}-")
            n += 1
        assert len(lines) == (17 if index.stem < "shard-000003" else 9)
    assert n == 60


def test_a_reader_that_streams_finds_samples_of_audio_and_speaker(packed_voices):
    # As WeSpeaker's does it: the last dot parts key and suffix, and a key's members follow one another.
    found = {}
    for shard in sorted((packed_voices / "shards").glob("*.tar")):
        with tarfile.open(shard, "r|") as tar:
            for member in tar:
                key, _, suffix = member.name.rpartition(".")
                found.setdefault(key, {})[suffix] = tar.extractfile(member).read()
    assert len(found) == 60
    assert found["v3-2"]["spk"] == b"v3"
    assert len(soundfile.read(io.BytesIO(found["v3-2"]["flac"]))[0]) > 12000


def test_crops_batches_and_the_check_are_those_of_the_files(voices, packed_voices, tiny_config):
    config = load_config(tiny_config, ["augment.speed_factors=[1.0, 0.9]"])

    def crops(folder):
        directory = keep_usable(read_data_directory(folder), 16000)
        return SpeakerCrops(directory, 16000, 0.5, config.augment, 3, 0.0)

    files, shards = crops(voices), crops(packed_voices)
    assert np.array_equal(files.labels, shards.labels)
    drawn = [draw for batch in SpeakerBatchSampler(files.labels, 6, 1, 3) for draw in batch]
    assert drawn == [draw for batch in SpeakerBatchSampler(shards.labels, 6, 1, 3) for draw in batch]
    for draw in drawn[:40]:
        one, other = files[draw], shards[draw]
        assert np.array_equal(one.samples, other.samples)
        assert (one.label, one.formant) == (other.label, other.formant)


def test_a_run_on_shards_logs_the_losses_of_a_run_on_files_to_the_last_digit(
    voices, packed_voices, tiny_config, tmp_path
):
    logs = []
    words = ["training.epochs=1", "snapshots.speakers=0", "data.held_out_speakers=0"]
    for folder in (voices, packed_voices):
        exp = tmp_path / folder.parent.name
        assert main(["train", str(tiny_config), "--data", str(folder), "--exp", str(exp), *words]) == 0
        logs.append([line for line in (exp / "log.jsonl").read_text().splitlines() if '"loss"' in line])
    losses = [[line.partition('"loss"')[2].split(",")[0] for line in log] for log in logs]
    assert len(losses[0]) > 5
    assert losses[0] == losses[1]


def test_packing_goes_on_with_the_shards_that_are_missing(voices, packed_voices, tmp_path):
    words = ["pack", str(voices), str(tmp_path / "out"), "--utterances-per-shard", "17"]
    assert main(words) == 0
    shards = tmp_path / "out" / "shards"
    assert (shards / "shard-000001.tar").read_bytes() == (packed_voices / "shards" / "shard-000001.tar").read_bytes()
    kept = (shards / "shard-000000.tar").stat().st_mtime_ns
    (shards / "shard-000001.tsv").unlink()
    cut = (shards / "shard-000002.tar").read_bytes()
    (shards / "shard-000002.tar").write_bytes(cut[:20000])
    assert main(words) == 0
    assert (shards / "shard-000000.tar").stat().st_mtime_ns == kept
    assert (shards / "shard-000001.tsv").is_file()
    assert (shards / "shard-000002.tar").read_bytes() == cut


def test_what_was_begun_otherwise_is_not_mixed(packed_voices, voices, capsys):
    assert main(["pack", str(voices), str(packed_voices), "--utterances-per-shard", "18"]) == 1
    assert "shards: holds shards of another list or form" in capsys.readouterr().err


def test_two_that_pack_at_once_share_the_shards(voices, packed_voices, tmp_path, monkeypatch):
    written = []
    write = packing._write_shard
    monkeypatch.setattr(packing, "_write_shard", lambda shard, *rest: written.append(shard) or write(shard, *rest))
    directory = keep_usable(read_data_directory(voices), 16000)
    with ThreadPoolExecutor(2) as pool:  # locks exclude threads as they do processes
        said = list(pool.map(lambda _: packing.pack_directory(directory, tmp_path / "out", 17, "flac", 1), range(2)))
    assert all("60 utterances in 4 shards" in one for one in said)
    assert sorted(path.name for path in written) == [f"shard-{number:06d}.tar" for number in range(4)]
    for name in ("wav.scp", "utt2spk", "utt2dur", "spk2gender", "shards/shard-000003.tar", "shards/shard-000003.tsv"):
        assert (tmp_path / "out" / name).read_bytes() == (packed_voices / name).read_bytes()


def test_shards_of_others_are_listed_and_stay_where_they_are(packed_voices, tmp_path, capsys):
    others = tmp_path / "others"
    others.mkdir()
    for number in range(4):
        (others / f"shards_00{number}.tar").write_bytes(
            (packed_voices / "shards" / f"shard-00000{number}.tar").read_bytes()
        )
    for source, out in ((others, "by_folder"), (others / "shard.list", "by_list")):
        (others / "shard.list").write_text("".join(f"{others}/shards_00{number}.tar\n" for number in range(4)))
        assert main(["pack", str(source), str(tmp_path / out)]) == 0
        assert "60 utterances in 4 shards" in capsys.readouterr().out
        found, known = read_data_directory(tmp_path / out), read_data_directory(packed_voices)
        assert [(u.id, u.speaker, u.path.offset) for u in found.utterances] == [
            (u.id, u.speaker, u.path.offset) for u in known.utterances
        ]
        assert found.utterances[20].path.shard == others / "shards_001.tar"
    (others / "shards_004.tar").write_bytes((others / "shards_003.tar").read_bytes())
    assert main(["pack", str(others), str(tmp_path / "twice")]) == 1
    assert "'v8-3' is also in" in capsys.readouterr().err
    (others / "shard.list").write_text("shards_009.tar\n")
    assert main(["pack", str(others / "shard.list"), str(tmp_path / "gone")]) == 1
    assert "shard.list:1: no shard" in capsys.readouterr().err
