"""Shards behind a web server and in memory: the same samples, a cache of a given size, reads that are interrupted."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import numpy as np
import pytest
import yaml

from spkver.cli import main
from spkver.config.schema import Shards
from spkver.data import remote
from spkver.data.audio import AudioError, read_audio
from spkver.data.audio_check import keep_usable
from spkver.data.directory import read_data_directory
from spkver.data.shards import Member
from spkver.errors import SpkverError


class Server(ThreadingHTTPServer):
    """Serves a folder with ranges, notes what is asked for, and fails when told to."""

    daemon_threads = True

    def __init__(self, folder):
        self.folder, self.asked, self.cut, self.broken = folder, [], 0, 0
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body=True):
        path = self.server.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        content, status = path.read_bytes(), 200
        size = len(content)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted:
            first, last = map(int, wanted.groups())
            content, status = content[first : last + 1], 206
            if first >= size:
                self.send_error(416)
                return
        if body:
            self.server.asked.append((path.name, len(content)))
        if body and self.server.broken:
            self.server.broken -= 1
            self.send_error(503)
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{first + len(content) - 1}/{size}")
        self.end_headers()
        if body and self.server.cut:
            self.server.cut -= 1
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(packed_voices):
    server = Server(packed_voices)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def lists(packed_voices, tmp_path):
    """The lists of ``packed_voices`` alone; ``lists(address=...)`` says where its shards are."""

    def lists(**settings):
        folder = tmp_path / "lists"
        folder.mkdir(exist_ok=True)
        for name in ("wav.scp", "utt2spk", "spk2utt", "utt2dur", "unusable"):
            (folder / name).write_bytes((packed_voices / name).read_bytes())
        (folder / "shards.yaml").write_text(yaml.safe_dump({"wait_seconds": 0.01, **settings}))
        remote.settings_of.cache_clear()
        return folder

    yield lists
    remote.settings_of.cache_clear()


def samples_of(folder):
    return [read_audio(utterance.path, 16000) for utterance in read_data_directory(folder).utterances]


def same(some, others):
    return len(some) == len(others) and all(np.array_equal(*pair) for pair in zip(some, others))


def test_each_utterance_is_one_range_of_its_shard(server, lists, packed_voices):
    folder = lists(address=server.address)
    assert same(samples_of(folder), samples_of(packed_voices))
    sizes = [utterance.path.size for utterance in read_data_directory(packed_voices).utterances]
    assert sorted(size for _, size in server.asked) == sorted(sizes)


def test_a_range_in_memory_reads_as_well(lists, packed_voices):
    files = fsspec.filesystem("memory")
    for shard in (packed_voices / "shards").glob("*.tar"):
        files.pipe(f"/corpus/shards/{shard.name}", shard.read_bytes())
    assert same(samples_of(lists(address="memory://corpus")), samples_of(packed_voices))


@pytest.mark.parametrize("fault", ["cut", "broken"])
def test_an_interrupted_read_is_tried_again(server, lists, packed_voices, fault):
    folder = lists(address=server.address, tries=4)
    setattr(server, fault, 3)
    assert np.array_equal(samples_of(folder)[0], samples_of(packed_voices)[0])
    assert len(server.asked) == 63
    setattr(server, fault, 4)
    utterance = read_data_directory(folder).utterances[7]
    with pytest.raises(
        SpkverError, match=r"shard-000000\.tar: cannot be read, tried 4 times \(.*\); is the storage"
    ) as caught:
        read_audio(utterance.path, 16000)
    assert not isinstance(caught.value, AudioError)  # or the utterance would be left out for ever


def test_a_server_that_is_away_ends_the_audio_check_and_marks_nothing_unusable(lists):
    folder = lists(address="http://127.0.0.1:9", tries=2)
    (folder / "unusable").unlink()
    with pytest.raises(SpkverError, match="tried 2 times"):
        keep_usable(read_data_directory(folder), 16000)
    assert not (folder / "unusable").exists()


def test_a_truncated_shard_is_named_with_the_offset(server, tmp_path, lists, packed_voices):
    whole = packed_voices / "shards" / "shard-000001.tar"
    server.folder = tmp_path
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:20_000])
    folder = lists()
    for offset in (19_000, 20_000, 50_000):
        with pytest.raises(AudioError, match=rf"cut\.tar:{offset}:4000: truncated.* begins at {offset} ends") as caught:
            read_audio(Member(f"{server.address}/cut.tar", offset, 4000, folder), 16000)
        assert caught.value.reason == "truncated"
    with pytest.raises(SpkverError, match=r"gone\.tar: no such shard"):
        read_audio(Member(f"{server.address}/gone.tar", 0, 4000, folder), 16000)


def test_the_cache_takes_whole_shards_up_to_its_size_and_the_rest_is_read_in_ranges(
    server, lists, packed_voices, tmp_path
):
    shards = sorted((packed_voices / "shards").glob("*.tar"))
    room = sum(shard.stat().st_size for shard in shards[:2]) + 5000
    folder = lists(address=server.address, cache=str(tmp_path / "cache"), cache_gigabytes=room / 1e9)
    expected = samples_of(packed_voices)
    assert same(samples_of(folder), expected)
    kept = sorted(path.name.partition("-")[2] for path in (tmp_path / "cache").iterdir())
    assert kept == [shard.name for shard in shards[:2]]
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= room
    server.asked.clear()
    assert same(samples_of(folder), expected)
    assert len(server.asked) == 60 - 34
    assert {name for name, _ in server.asked} == {shard.name for shard in shards[2:]}


def test_a_shard_that_another_process_downloads_is_read_in_ranges_meanwhile(server, lists, packed_voices, tmp_path):
    settings = Shards(address=server.address, cache=str(tmp_path / "cache"))
    address = f"{server.address}/shards/shard-000000.tar"
    with remote.claimed(tmp_path / "cache" / f".{name_of(address)}.lock", "another"):
        assert remote.cached(address, settings) is None
    assert remote.cached(address, settings).read_bytes() == (packed_voices / "shards" / "shard-000000.tar").read_bytes()


def name_of(address):
    return f"{remote.hashlib.sha256(address.encode()).hexdigest()[:16]}-{address.rpartition('/')[2]}"


def test_shards_at_addresses_are_listed_and_trained_on(server, packed_voices, tmp_path):
    (tmp_path / "shard.list").write_text(
        "".join(f"{server.address}/shards/shard-{number:06d}.tar\n" for number in range(4))
    )
    assert main(["pack", str(tmp_path / "shard.list"), str(tmp_path / "out")]) == 0
    directory = keep_usable(read_data_directory(tmp_path / "out"), 16000)
    assert directory.durations == read_data_directory(packed_voices).durations
    assert str(directory.utterances[20].path).startswith(f"{server.address}/shards/shard-000001.tar:")


def test_a_key_that_shards_yaml_does_not_have_is_refused_by_its_name(lists):
    with pytest.raises(SpkverError, match=r"shards\.yaml: .*cash"):
        read_data_directory(lists(cash="x")).utterances[0]


def test_without_fsspec_it_is_said_what_to_install(lists, monkeypatch):
    folder = lists(address="https://host")
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(SpkverError, match=r"fsspec is not installed.*pip install 'spkver\[remote\]'"):
        read_audio(read_data_directory(folder).utterances[0].path, 16000)
