"""The audio files of a corpus whose folders are its lists, whatever they are called."""

import os
from pathlib import Path

import pytest
import soundfile

from spkver.cli import main
from spkver.corpora.audio_tree import audio_tree
from spkver.corpora.convert import convert
from spkver.corpora.found_recordings import encoded
from spkver.data.directory import Utterance, read_data_directory, read_path_list, write_data_directory

ODD = {
    b"a b": "a%20b",
    b"-x": "-x",
    b"100%": "100%25",
    b"a:b|'\"[*]": "a:b|'\"[*]",
    "\u674e\u96f7".encode(): "\u674e\u96f7",
    "a\u00a0b".encode(): "a%C2%A0b",
    "a\u2028b".encode(): "a%E2%80%A8b",
    b"a\tb\rc": "a%09b%0Dc",
    b"caf\xe9": "caf%E9",
}


@pytest.fixture(params=ODD, ids=ODD.values())
def odd(request):
    return request.param


def fill(*parts):
    path = os.path.join(*map(os.fsencode, parts))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        soundfile.write(file, [0.1, 0.2] * 8000, 16000, format="WAV")


def test_a_name_of_the_disk_is_an_id_that_a_list_can_hold(tmp_path, odd):
    fill(tmp_path, "corpus", odd, odd + b".wav")
    (name,) = found = audio_tree(tmp_path / "corpus", 1, (".wav",))
    assert name == f"{ODD[odd]}/{ODD[odd]}" and found[name].is_file()
    assert len(name.split()) == 1
    if odd != b"caf\xe9":  # a path that is no UTF-8
        write_data_directory(tmp_path / "data", [Utterance(name, found[name], ODD[odd])])
        assert [utterance.path for utterance in read_data_directory(tmp_path / "data").utterances] == [found[name]]


def test_a_name_with_a_line_end_counts_as_not_there(tmp_path):
    fill(tmp_path, b"a\nb", b"1.wav")
    fill(tmp_path, b"a", b"1\n.wav")
    fill(tmp_path, b"a", b"2.wav")
    assert list(audio_tree(tmp_path, 1, (".wav",))) == ["a/2"]


def test_different_names_stay_different():
    names = ["a b", "a%20b", "a%2520b", "a\u00a0b", "a\tb", "a  b", "a", "%"]
    assert len({encoded(name) for name in names}) == len(names)


def test_lists_for_augmentation_hold_files_of_any_name(tmp_path, odd):
    here = tmp_path / "musan"
    for category in ("music", "speech"):
        (here / category).mkdir(parents=True)
    fill(here, b"noise", odd, odd + b".wav")
    assert main(["prepare", "musan", str(tmp_path / "lists"), "--corpus", str(here), "--partial"]) == 0
    line = (tmp_path / "lists" / "noise").read_bytes().rstrip(b"\n")
    utt, path = line.split(b" ", 1)
    assert utt.decode() == f"noise/{ODD[odd]}/{ODD[odd]}"
    assert os.path.isfile(path)
    if odd != b"caf\xe9":
        assert list(read_path_list(tmp_path / "lists" / "noise")) == [utt.decode()]


def test_a_folder_with_a_line_end_is_told(tmp_path, capsys):
    here = tmp_path / "a\nb" / "musan"
    fill(here, b"noise", b"x", b"1.wav")
    assert main(["prepare", "musan", str(tmp_path / "lists"), "--corpus", str(here), "--partial"]) == 1
    assert "a list cannot hold a path with a line end" in capsys.readouterr().err


def test_ffmpeg_is_given_no_name_that_it_takes_for_something_else(tmp_path, monkeypatch):
    programs, words = tmp_path / "bin", tmp_path / "words"
    programs.mkdir()
    (programs / "ffmpeg").write_text(
        f"#!/bin/sh\nprintf '%s\\n' \"$@\" >'{words}'\neval \"cp '{words}' \\\"\\${{$#}}\\\"\"\n"
    )
    (programs / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-in").mkdir()
    (tmp_path / "-in" / "data:1.m4a").touch()
    assert convert([(Path("-in/data:1.m4a"), Path("-out/1.flac"))]) == {}
    given = words.read_text().splitlines()
    assert given[given.index("-i") + 1] == str(tmp_path / "-in" / "data:1.m4a")
    assert given[-1] == str(tmp_path / "-out" / ".1.flac.part")
    assert (tmp_path / "-out" / "1.flac").is_file()
