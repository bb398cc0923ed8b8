"""Downloads against a local server that breaks off, knows no Range, changes its file, or refuses."""

import hashlib
import resource
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from one_line import told

from spkver.corpora import download as download_module
from spkver.corpora.download import download
from spkver.files import locked

CONTENT = np.random.default_rng(1).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves one file; each request takes the next of ``plan``.

    That is a status, bytes to break off after, an address to redirect to, or a function that answers.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.knows_range, self.plan, self.ranges = True, [], []

    def handle_error(self, *_):  # a client that has hung up is part of the tests
        pass

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/corpus.tar.gz"


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.ranges.append(wanted)
        step = server.plan.pop(0) if server.plan else len(CONTENT)
        if step in (403, 404, 503):
            return self.send_error(step)
        if isinstance(step, str):  # another address
            self.send_response(302)
            self.send_header("Location", step)
            return self.end_headers()
        if callable(step):
            return step(self)
        start = int(wanted[6:-1]) if wanted and server.knows_range else 0
        if start >= len(CONTENT):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start:][:step])


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(download_module, "FIRST_WAIT_SECONDS", 0.01)
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def fetch(server, path, checksum=SHA256, **options):
    return download(server.url, path, checksum, **options)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
@pytest.mark.parametrize("prefix", [False, True])
def test_a_file_arrives_whole_and_only_under_its_name(server, tmp_path, algorithm, prefix):
    digest = hashlib.new(algorithm, CONTENT).hexdigest().upper()
    path = fetch(server, tmp_path / "new" / "f", f"{algorithm}:{digest}" if prefix else digest, size=3_000_000)
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["f"]


def test_a_broken_connection_goes_on_from_the_byte_where_it_broke(server, tmp_path):
    server.plan = [1_000_000, 500_000]
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000000-", "bytes=1500000-"]


def test_the_next_call_goes_on_where_the_last_one_was_interrupted(server, tmp_path, monkeypatch):
    server.plan = [1_234_567]
    with monkeypatch.context() as patch:
        patch.setattr(download_module.time, "sleep", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fetch(server, tmp_path / "f")
    assert names(tmp_path) == ["f.part"]
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT
    assert server.ranges[1:] == ["bytes=1234567-"]


def test_a_part_that_is_whole_needs_no_more_than_its_name(server, tmp_path):
    (tmp_path / "f.part").write_bytes(CONTENT)
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT


def test_a_server_without_range_starts_over(server, tmp_path):
    server.knows_range, server.plan = False, [1_000_000, 2_000_000]
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT


def test_without_a_checksum_nothing_is_joined(server, tmp_path, monkeypatch):
    (tmp_path / "f.part").write_bytes(bytes(1_000_000))
    monkeypatch.setattr(download_module, "_check_scheme", lambda *_: None)  # an https server would do
    assert fetch(server, tmp_path / "f", None).read_bytes() == CONTENT
    assert server.ranges == [None]


def test_a_local_file_can_be_the_source(tmp_path):
    (tmp_path / "source").write_bytes(CONTENT)
    assert download((tmp_path / "source").as_uri(), tmp_path / "f", SHA256).read_bytes() == CONTENT
    assert "missing" in told(download, (tmp_path / "missing").as_uri(), tmp_path / "g")


def test_pieces_that_do_not_belong_together_leave_nothing(server, tmp_path):
    (tmp_path / "f.part").write_bytes(bytes(1_000_000))
    message = told(fetch, server, tmp_path / "f")
    assert server.ranges == ["bytes=1000000-"]
    assert "removed; run again" in message and f"expected {SHA256}" in message
    assert names(tmp_path) == []


def test_a_standing_file_is_checked_and_not_fetched_again(server, tmp_path):
    (tmp_path / "f").write_bytes(CONTENT)
    fetch(server, tmp_path / "f", size=3_000_000)
    assert "remove it" in told(fetch, server, tmp_path / "f", "0" * 32)
    assert "expected 7" in told(fetch, server, tmp_path / "f", size=7)
    assert server.ranges == [] and (tmp_path / "f").read_bytes() == CONTENT


def test_a_refusal_is_told_at_once(server, tmp_path):
    server.plan = [404]
    assert "the server answers 404" in told(fetch, server, tmp_path / "f")
    assert len(server.ranges) == 1


def test_a_busy_server_is_asked_again_until_the_retries_end(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(download_module.time, "sleep", waits.append)
    server.plan = [503, 503]
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT
    assert waits == [0.01, 0.02]
    monkeypatch.setattr(download_module, "RETRIES", 2)
    server.plan = [503] * 10
    assert "the server answers 503" in told(fetch, server, tmp_path / "g")
    assert len(server.plan) == 7


def test_only_breaks_without_progress_use_up_the_retries(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "RETRIES", 1)
    server.plan = [400_000] * 7
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT
    server.plan = [1] * 100
    assert "broke at 2 of 3000000 bytes" in told(fetch, server, tmp_path / "g")


def test_no_server_and_no_network_are_told(server, tmp_path, capsys):
    server.shutdown()
    server.server_close()
    assert "refused" in told(fetch, server, tmp_path / "f")
    assert "again in" in capsys.readouterr().err
    message = told(download, "https://no-such-host.invalid/f", tmp_path / "f")
    assert "again in" not in capsys.readouterr().err
    assert "no-such-host.invalid" in message and "network" in message


def test_a_silent_server_times_out(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(download_module, "RETRIES", 0)
    release = threading.Event()
    server.plan = [lambda handler: release.wait(5)]
    assert "timed out" in told(fetch, server, tmp_path / "f")
    release.set()


def test_what_a_server_sends_is_held_to_its_size(server, tmp_path):
    assert "is 3000000 bytes, expected 4000000" in told(fetch, server, tmp_path / "f", size=4_000_000)
    assert "is 3000000 bytes, expected at most 1000" in told(fetch, server, tmp_path / "f", most_bytes=1000)
    assert not (tmp_path / "f.part").exists()

    def without_a_length(handler):
        handler.send_response(200)
        handler.end_headers()
        for _ in range(20_000):
            handler.wfile.write(CONTENT[:1000])

    for limit in ({"size": 5_000_000}, {"most_bytes": 5_000_000}):
        server.plan = [without_a_length]
        assert "sends more than the 5000000 bytes" in told(fetch, server, tmp_path / "f", **limit)


def test_a_full_disk_is_told_and_gone_on_from(server, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, before[1]))
    try:
        message = told(fetch, server, tmp_path / "f")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert message.startswith(f"{tmp_path / 'f.part'}: cannot be written (File too large)")
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1500000-"]


@pytest.mark.parametrize("checksum", ["", "abc", "g" * 64, "sha1:" + "0" * 40])
def test_a_malformed_checksum_is_told_before_anything_is_fetched(server, tmp_path, checksum):
    assert "64 hex digits" in told(fetch, server, tmp_path / "f", checksum)
    assert server.ranges == []


@pytest.mark.parametrize("url", ["ftp://host/f", "/etc/passwd", "http://host/f", "https://[::1/f", "https://h:port/f"])
def test_an_address_that_cannot_be_asked_is_told(tmp_path, url):
    assert told(download, url, tmp_path / "f").startswith(f"{url}: ")
    assert names(tmp_path) == []


def test_a_redirect_leads_to_no_file(server, tmp_path):
    server.plan = ["file:///etc/passwd"]
    assert "the server answers 302" in told(fetch, server, tmp_path / "f")
    assert len(server.ranges) == 1 and names(tmp_path) == []


def test_a_redirect_to_http_is_not_followed_without_a_checksum(server, tmp_path, monkeypatch):
    checked = download_module._check_scheme
    seen = []

    def as_if_it_began_with_https(url, checksum):
        seen.append(url)
        return len(seen) > 1 and checked(url, checksum)

    monkeypatch.setattr(download_module, "_check_scheme", as_if_it_began_with_https)
    server.plan = [server.url + "?elsewhere"]
    assert "elsewhere: not an https" in told(fetch, server, tmp_path / "f", None)
    assert names(tmp_path) == []


def test_a_file_is_fetched_by_one_process_at_a_time(server, tmp_path):
    with locked(tmp_path / ".f.lock", "the download of f"):
        assert "the download of f is under way in another process" in told(fetch, server, tmp_path / "f")
    assert server.ranges == []
