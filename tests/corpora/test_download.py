"""Downloads against a local server that breaks off, knows no Range, changes its file, or refuses."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from spkver.corpora import download as download_module
from spkver.corpora.download import download
from spkver.errors import SpkverError

CONTENT = np.random.default_rng(1).bytes(3_000_000)
OTHER = np.random.default_rng(2).bytes(3_000_000)


class Server(ThreadingHTTPServer):
    """Serves one file; each request takes the next of ``plan``: a status, or bytes to break off after."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.etag = CONTENT, '"one"'
        self.knows_range = self.heeds_if_range = True
        self.plan, self.ranges, self.validators, self.sent = [], [], [], 0

    def handle_error(self, *_):  # a client that has hung up is part of the tests
        pass

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/corpus.tar.gz"


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.ranges.append(wanted)
        server.validators.append(self.headers.get("If-Range"))
        step = server.plan.pop(0) if server.plan else len(server.content)
        if step in (403, 404, 503):
            return self.send_error(step)
        fresh = not server.heeds_if_range or self.headers.get("If-Range") in (None, server.etag)
        start = int(wanted[6:-1]) if wanted and server.knows_range and fresh else 0
        if start >= len(server.content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        body = server.content[start:][:step]
        server.sent += len(body)
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def fetch(server, path, **options):
    return download(server.url, path, backoff_seconds=0.01, **options)


def refused(call, *args, **options):
    with pytest.raises(SpkverError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def parts(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
@pytest.mark.parametrize("prefix", [False, True])
def test_file_arrives_whole_and_only_under_its_name(server, tmp_path, algorithm, prefix):
    digest = hashlib.new(algorithm, CONTENT).hexdigest().upper()
    path = fetch(server, tmp_path / "new" / "f", checksum=f"{algorithm}:{digest}" if prefix else digest, size=3_000_000)
    assert path.read_bytes() == CONTENT
    assert parts(path.parent) == ["f"]


def test_broken_connection_goes_on_from_the_byte_where_it_broke(server, tmp_path):
    server.plan = [1_000_000, 500_000]
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000000-", "bytes=1500000-"]
    assert server.validators == [None, '"one"', '"one"']
    assert server.sent == 3_000_000


def test_next_call_goes_on_where_the_last_one_gave_up(server, tmp_path):
    server.plan = [1_234_567]
    assert "1234567 bytes" in refused(fetch, server, tmp_path / "f", retries=0)
    assert parts(tmp_path) == ["f.part", "f.part.json"]
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT
    assert server.ranges[1:] == ["bytes=1234567-"]


def test_killed_after_the_last_byte_needs_no_further_request(server, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(download_module, "_verify", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fetch(server, tmp_path / "f")
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT
    assert len(server.ranges) == 1


def test_server_without_range_starts_over(server, tmp_path):
    server.knows_range, server.plan = False, [1_000_000, 2_000_000]
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT
    assert server.sent == 6_000_000


def test_server_without_validator_is_resumed_by_size(server, tmp_path):
    server.etag, server.plan = None, [1_000_000]
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT
    assert server.sent == 3_000_000


@pytest.mark.parametrize("heeds_if_range", [True, False])
@pytest.mark.parametrize("etag", ['"two"', None])
def test_file_that_changed_is_not_glued_to_the_old_part(server, tmp_path, heeds_if_range, etag):
    if etag is None:
        server.etag = None  # nothing but the size tells the versions apart
    server.plan = [1_000_000]
    refused(fetch, server, tmp_path / "f", retries=0)
    server.content, server.etag, server.heeds_if_range = (
        OTHER[: 3_000_000 - (etag is None)],
        etag,
        heeds_if_range,
    )
    assert fetch(server, tmp_path / "f").read_bytes() == server.content


def test_file_that_shrank_below_the_part_starts_over(server, tmp_path):
    server.plan = [2_000_000]
    refused(fetch, server, tmp_path / "f", retries=0)
    server.content, server.heeds_if_range = OTHER[:1_000_000], False
    assert fetch(server, tmp_path / "f").read_bytes() == server.content


def test_part_of_another_url_is_not_gone_on_with(server, tmp_path):
    server.plan = [1_000_000]
    refused(fetch, server, tmp_path / "f", retries=0)
    server.content = OTHER
    assert download(server.url + "?mirror", tmp_path / "f").read_bytes() == OTHER


def test_part_without_its_record_is_not_trusted(server, tmp_path):
    (tmp_path / "f.part").write_bytes(OTHER[:1_000_000])
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT


def test_wrong_checksum_leaves_no_file_and_no_part_to_go_on_with(server, tmp_path):
    message = refused(fetch, server, tmp_path / "f", checksum="0" * 64)
    assert hashlib.sha256(CONTENT).hexdigest() in message and "0" * 64 in message
    assert parts(tmp_path) == []


def test_standing_file_is_checked_and_not_fetched_again(server, tmp_path):
    (tmp_path / "f").write_bytes(CONTENT)
    fetch(server, tmp_path / "f", checksum=hashlib.sha256(CONTENT).hexdigest())
    assert server.ranges == []
    assert "remove it" in refused(fetch, server, tmp_path / "f", checksum="0" * 32)
    assert "expected 7" in refused(fetch, server, tmp_path / "f", size=7)
    assert (tmp_path / "f").read_bytes() == CONTENT


@pytest.mark.parametrize("status", [403, 404])
def test_refusal_is_told_at_once(server, tmp_path, status):
    server.plan = [status]
    assert str(status) in refused(fetch, server, tmp_path / "f")
    assert len(server.ranges) == 1


def test_busy_server_is_asked_again(server, tmp_path):
    server.plan = [503, 503]
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT


def test_retries_end(server, tmp_path):
    server.plan = [503] * 10
    assert "gave up after 2 retries" in refused(fetch, server, tmp_path / "f", retries=2)
    assert len(server.ranges) == 3


def test_breaks_after_progress_do_not_use_up_the_retries(server, tmp_path):
    server.plan = [400_000] * 7
    assert fetch(server, tmp_path / "f", retries=1).read_bytes() == CONTENT


def test_changed_size_is_told_before_the_file_is_fetched(server, tmp_path):
    assert "3000000 bytes, expected 4" in refused(fetch, server, tmp_path / "f", size=4)
    assert not (tmp_path / "f.part").exists()


def test_full_disk_is_told_before_the_file_is_fetched(server, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda _: usage)
    assert "1000 are free" in refused(fetch, server, tmp_path / "f")


def test_no_server_and_no_network_are_told(server, tmp_path):
    server.shutdown()
    server.server_close()
    assert "refused" in refused(fetch, server, tmp_path / "f", retries=1)
    message = refused(download, "http://no-such-host.invalid/f", tmp_path / "f")
    assert "no-such-host.invalid" in message and "network" in message


def test_silent_server_times_out(server, tmp_path, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(_Handler, "do_GET", lambda self: release.wait(5))
    assert "timed out" in refused(fetch, server, tmp_path / "f", retries=0, timeout_seconds=0.2)
    release.set()


def test_local_file_can_be_the_source(tmp_path):
    (tmp_path / "source").write_bytes(CONTENT)
    path = download((tmp_path / "source").as_uri(), tmp_path / "f", hashlib.md5(CONTENT).hexdigest())
    assert path.read_bytes() == CONTENT
    assert "missing" in refused(download, (tmp_path / "missing").as_uri(), tmp_path / "g")


@pytest.mark.parametrize("checksum", ["", "abc", "g" * 64, "md5:" + "0" * 64, "sha1:" + "0" * 40])
def test_malformed_checksum_is_told_before_anything_is_fetched(server, tmp_path, checksum):
    assert "64 hex digits" in refused(fetch, server, tmp_path / "f", checksum=checksum)
    assert server.ranges == []


@pytest.mark.parametrize("url", ["ftp://host/f", "/etc/passwd", "data:,x"])
def test_other_schemes_are_refused(tmp_path, url):
    assert "not an https, http or file URL" in refused(download, url, tmp_path / "f")
