"""Places in shards: they read as files do, and what a shard holds is found in one pass."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spkver.data.audio import AudioError, audio_info, read_audio
from spkver.data.directory import read_data_directory, read_path_list, write_data_directory
from spkver.data.shards import Listed, Member, listed, located, shard_utterances, stamp
from spkver.data.streaming import audio_blocks
from spkver.errors import SpkverError


def tar_of(path: Path, members: dict[str, bytes], **options) -> Path:
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def wav(seconds: float = 0.5, rate: int = 16000, seed: int = 0, **form) -> bytes:
    content = io.BytesIO()
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, int(seconds * rate))
    soundfile.write(content, samples, rate, **{"format": "WAV", "subtype": "PCM_16", **form})
    return content.getvalue()


FORMS = {
    "wav": {},
    "flac": {"format": "FLAC"},
    "ogg": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III"},
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> dict[str, tuple[Path, Member]]:
    """Of each form, the same bytes as a file and as a member of a shard."""
    folder = tmp_path_factory.mktemp("pairs")
    contents = {name: wav(2.0, 16000, 5, **form) for name, form in FORMS.items()}
    # A header that libsndfile would be misled by: its size was never written.
    contents["piped"] = contents["wav"][:40] + b"\xff\xff\xff\xff" + contents["wav"][44:]
    found = {}
    members = {f"x/{name}.{'wav' if name == 'piped' else name}": content for name, content in contents.items()}
    speakers = {f"x/{name}.spk": b"anna\n" for name in contents}
    shard = tar_of(folder / "a.tar", dict(sorted({**members, **speakers}.items())))
    for one in shard_utterances(shard):
        name = one.utterance.removeprefix("x/")
        (folder / name).write_bytes(contents[name])
        found[name] = folder / name, Member(shard, one.offset, one.size)
    assert set(found) == set(contents)
    return found


@pytest.mark.parametrize("name", [*FORMS, "piped"])
def test_a_member_reads_as_the_file_of_the_same_bytes(pairs, name):
    path, member = pairs[name]
    assert audio_info(member) == audio_info(path)
    for rate, *crop in ((16000,), (16000, 0.7, 0.5), (8000, 1.3, 0.6), (16000, 1.9, 3.0)):
        assert np.array_equal(read_audio(member, rate, *crop), read_audio(path, rate, *crop))
    blocks = [np.concatenate(list(audio_blocks(one, 8000, 0.4))) for one in (path, member)]
    assert np.array_equal(*blocks)
    assert len(blocks[0]) > 15000


def test_only_what_a_crop_needs_is_read_of_a_member(pairs, monkeypatch):
    n_bytes = []
    pread = os.pread

    def counted(file, n, place):
        content = pread(file, n, place)
        n_bytes.append(len(content))
        return content

    monkeypatch.setattr(os, "pread", counted)
    _, member = pairs["wav"]
    read_audio(member, 16000, 1.0, 0.01)
    assert 320 <= sum(n_bytes) < member.size / 2


def test_the_text_of_a_place_gives_it_back_and_is_relative_inside_of_the_folder(tmp_path):
    member = Member(tmp_path / "s" / "a b:c.tar", 512, 44)
    assert listed(member, tmp_path) == "s/a b:c.tar:512:44"
    assert located(listed(member, tmp_path), tmp_path) == member
    assert located(listed(member, Path("/elsewhere")), tmp_path) == member
    assert str(member) == os.fspath(member) == f"{tmp_path}/s/a b:c.tar:512:44"
    for text in ("a.wav", "a.tar", "a.tar:5", "a.tgz:5:6", "a.tar:x:6"):
        assert located(text, tmp_path) == tmp_path / text


def test_a_list_may_name_files_and_places_in_shards(pairs, tmp_path):
    path, member = pairs["flac"]
    (tmp_path / "noises").write_text(f"a {path}\nb {member}\n")
    assert read_path_list(tmp_path / "noises") == {"a": path, "b": member}
    (tmp_path / "noises").write_text(f"a {path}\nb {member.shard}.gone.tar:5:6\n")
    with pytest.raises(SpkverError, match=r"noises:2: no audio file .*gone\.tar:5:6"):
        read_path_list(tmp_path / "noises")


def test_a_data_directory_of_shards_is_written_and_read_again(packed_voices, tmp_path):
    directory = read_data_directory(packed_voices)
    assert {utterance.path.shard.parent for utterance in directory.utterances} == {packed_voices / "shards"}
    write_data_directory(tmp_path, directory.utterances, directory.genders)
    assert list(read_data_directory(tmp_path).utterances) == list(directory.utterances)


def test_a_truncated_shard_is_named_with_the_offset(pairs, tmp_path):
    _, member = pairs["ogg"]
    cut = Member(tmp_path / "cut.tar", member.offset, member.size)
    cut.shard.write_bytes(member.shard.read_bytes()[: member.offset + member.size - 1])
    there, end = member.offset + member.size - 1, member.offset + member.size
    with pytest.raises(
        AudioError, match=f"cut.tar:.*the shard has {there} bytes.*begins at {member.offset} ends at {end}"
    ) as caught:
        read_audio(cut, 16000)
    assert caught.value.reason == "truncated"
    with pytest.raises(AudioError, match="no such audio file") as caught:
        read_audio(Member(tmp_path / "gone.tar", 0, 5), 16000)
    assert caught.value.reason == "missing"
    with pytest.raises(
        SpkverError, match=f"cut.tar: no uncompressed tar, or damaged or truncated behind byte {member.offset - 512} "
    ):
        list(shard_utterances(cut.shard))


def test_a_stamp_tells_another_size_and_another_shard(pairs, tmp_path):
    _, member = pairs["wav"]
    assert stamp(member) == (member.size, member.shard.stat().st_mtime_ns)
    assert stamp(Member(tmp_path / "gone.tar", 0, 5)) == (-1, -1)
    assert stamp(pairs["wav"][0]) == (member.size, pairs["wav"][0].stat().st_mtime_ns)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_utterances_of_a_shard_have_ids_with_dots_long_names_and_the_speaker_on_either_side(tmp_path, form):
    long = "id10001/" + "x" * 150 + "/00001.wav"
    content = {
        f"{long}.wav": b"first",
        f"{long}.spk": b"anna\n",
        "./b/2.spk": b" bert",
        "./b/2.txt": b"what was said",
        "./b/2.flac": b"second!",
    }
    shard = tar_of(tmp_path / "a.tar", content, format=form)
    one, two = shard_utterances(shard)
    assert (one.utterance, one.speaker, two.utterance, two.speaker) == (long, "anna", "b/2", "bert")
    whole = shard.read_bytes()
    assert whole[one.offset :][: one.size] == b"first"
    assert whole[two.offset :][: two.size] == b"second!"
    assert isinstance(one, Listed)


@pytest.mark.parametrize(
    "members, message",
    [
        ({"a.wav": b"x"}, "'a' at byte 512 has no speaker; a member 'a.spk'"),
        ({"a.wav": b"x", "b.wav": b"y", "a.spk": b"s"}, "'a' at byte 512 has no speaker"),
        ({"a.spk": b"s", "b.wav": b"y", "b.spk": b"s"}, "'a.spk' has no audio beside it"),
        ({"a.wav": b"x", "a.spk": b"two words"}, "'a.spk' at byte 1024 names no speaker"),
        ({"a.wav": b"x", "a.spk": b"\xff"}, "'a.spk' at byte 1024 names no speaker"),
        ({"a.wav": b"x", "a.flac": b"y", "a.spk": b"s"}, "'a' has two audio files, the second at byte 1024"),
    ],
)
def test_a_shard_that_says_no_speaker_is_refused_by_its_member(tmp_path, members, message):
    with pytest.raises(SpkverError, match=message):
        list(shard_utterances(tar_of(tmp_path / "a.tar", members)))


def test_what_is_no_tar_is_refused_by_its_name(tmp_path):
    (tmp_path / "a.tar").write_bytes(os.urandom(2048))
    with pytest.raises(SpkverError, match=r"a\.tar: no uncompressed tar, or damaged or truncated behind byte 0"):
        list(shard_utterances(tmp_path / "a.tar"))
    tar_of(tmp_path / "b.tar", {"a.wav": b"x"})
    os.system(f"gzip -c {tmp_path}/b.tar > {tmp_path}/c.tar")
    with pytest.raises(SpkverError, match=r"c\.tar: no uncompressed tar"):
        list(shard_utterances(tmp_path / "c.tar"))
