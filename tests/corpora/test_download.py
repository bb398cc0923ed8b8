"""Downloads against a local server that breaks off, knows no Range, changes its file, or refuses."""

import hashlib
import resource
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from one_line import told

from spkver.corpora import download as download_module
from spkver.corpora.download import download
from spkver.files import locked

CONTENT = np.random.default_rng(1).bytes(3_000_000)
OTHER = np.random.default_rng(2).bytes(3_000_000)


class Server(ThreadingHTTPServer):
    """Serves one file; each request takes the next of ``plan``.

    That is a status, bytes to break off after, an address to redirect to, or a function that answers.
    """

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
        if isinstance(step, str):  # another address
            self.send_response(302)
            self.send_header("Location", step)
            return self.end_headers()
        if callable(step):
            return step(self)
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
    return download(server.url, path, backoff_seconds=0.01, allow_http=True, **options)


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
    assert "1234567 bytes" in told(fetch, server, tmp_path / "f", retries=0)
    assert parts(tmp_path) == ["f.part", "f.part.json"]
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT
    assert server.ranges[1:] == ["bytes=1234567-"]


def test_killed_after_the_last_byte_needs_no_further_request(server, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(download_module, "_fault", lambda *a, **k: 1 / 0)
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
    told(fetch, server, tmp_path / "f", retries=0)
    server.content, server.etag, server.heeds_if_range = (
        OTHER[: 3_000_000 - (etag is None)],
        etag,
        heeds_if_range,
    )
    assert fetch(server, tmp_path / "f").read_bytes() == server.content


def test_file_that_shrank_below_the_part_starts_over(server, tmp_path):
    server.plan = [2_000_000]
    told(fetch, server, tmp_path / "f", retries=0)
    server.content, server.heeds_if_range = OTHER[:1_000_000], False
    assert fetch(server, tmp_path / "f").read_bytes() == server.content


def test_part_of_another_url_is_not_gone_on_with(server, tmp_path):
    server.plan = [1_000_000]
    told(fetch, server, tmp_path / "f", retries=0)
    server.content = OTHER
    assert download(server.url + "?mirror", tmp_path / "f", allow_http=True).read_bytes() == OTHER


def test_part_without_its_record_is_not_trusted(server, tmp_path):
    (tmp_path / "f.part").write_bytes(OTHER[:1_000_000])
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT


def test_wrong_checksum_leaves_no_file_and_no_part_to_go_on_with(server, tmp_path):
    message = told(fetch, server, tmp_path / "f", checksum="0" * 64)
    assert hashlib.sha256(CONTENT).hexdigest() in message and "0" * 64 in message
    assert parts(tmp_path) == []


def test_standing_file_is_checked_and_not_fetched_again(server, tmp_path):
    (tmp_path / "f").write_bytes(CONTENT)
    fetch(server, tmp_path / "f", checksum=hashlib.sha256(CONTENT).hexdigest())
    assert server.ranges == []
    assert "remove it" in told(fetch, server, tmp_path / "f", checksum="0" * 32)
    assert "expected 7" in told(fetch, server, tmp_path / "f", size=7)
    assert (tmp_path / "f").read_bytes() == CONTENT


@pytest.mark.parametrize("status", [403, 404])
def test_refusal_is_told_at_once(server, tmp_path, status):
    server.plan = [status]
    assert str(status) in told(fetch, server, tmp_path / "f")
    assert len(server.ranges) == 1


def test_busy_server_is_asked_again(server, tmp_path):
    server.plan = [503, 503]
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT


def test_retries_end(server, tmp_path):
    server.plan = [503] * 10
    assert "gave up after 2 retries" in told(fetch, server, tmp_path / "f", retries=2)
    assert len(server.ranges) == 3


def test_breaks_after_progress_do_not_use_up_the_retries(server, tmp_path):
    server.plan = [400_000] * 7
    assert fetch(server, tmp_path / "f", retries=1).read_bytes() == CONTENT


def test_changed_size_is_told_before_the_file_is_fetched(server, tmp_path):
    assert "3000000 bytes, expected 4" in told(fetch, server, tmp_path / "f", size=4)
    assert not (tmp_path / "f.part").exists()


def test_full_disk_is_told_before_the_file_is_fetched(server, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda _: usage)
    assert "1000 are free" in told(fetch, server, tmp_path / "f")


def test_no_server_and_no_network_are_told(server, tmp_path):
    server.shutdown()
    server.server_close()
    assert "refused" in told(fetch, server, tmp_path / "f", retries=1)
    message = told(download, "https://no-such-host.invalid/f", tmp_path / "f")
    assert "no-such-host.invalid" in message and "network" in message


def test_silent_server_times_out(server, tmp_path, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(_Handler, "do_GET", lambda self: release.wait(5))
    assert "timed out" in told(fetch, server, tmp_path / "f", retries=0, timeout_seconds=0.2)
    release.set()


def test_local_file_can_be_the_source(tmp_path):
    (tmp_path / "source").write_bytes(CONTENT)
    path = download((tmp_path / "source").as_uri(), tmp_path / "f", hashlib.md5(CONTENT).hexdigest())
    assert path.read_bytes() == CONTENT
    assert "missing" in told(download, (tmp_path / "missing").as_uri(), tmp_path / "g")


@pytest.mark.parametrize("checksum", ["", "abc", "g" * 64, "md5:" + "0" * 64, "sha1:" + "0" * 40])
def test_malformed_checksum_is_told_before_anything_is_fetched(server, tmp_path, checksum):
    assert "64 hex digits" in told(fetch, server, tmp_path / "f", checksum=checksum)
    assert server.ranges == []


@pytest.mark.parametrize("url", ["ftp://host/f", "/etc/passwd", "data:,x"])
def test_other_schemes_are_told(tmp_path, url):
    assert "not an https, http or file URL" in told(download, url, tmp_path / "f")


def test_http_is_refused_unless_it_is_allowed(server, tmp_path):
    assert "http can be changed by anybody on the way" in told(download, server.url, tmp_path / "f")
    assert server.ranges == []
    server.plan = [f"http://127.0.0.1:{server.server_port}/elsewhere"]
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT
    assert len(server.ranges) == 2


@pytest.mark.parametrize("where", ["http://127.0.0.1:9/f", "ftp://127.0.0.1/f", "file:///etc/passwd"])
def test_a_redirect_leads_to_no_address_that_could_not_have_been_asked_for(server, tmp_path, monkeypatch, where):
    # What an https server would answer; only the first address is taken for one.
    checked = download_module._check_address
    monkeypatch.setattr(
        download_module, "_check_address", lambda url, allow: None if url == server.url else checked(url, allow)
    )
    server.plan = [where]
    message = told(download, server.url, tmp_path / "f")
    assert message.startswith(server.url) and where in message
    assert len(server.ranges) == 1 and parts(tmp_path) == []


def test_a_circle_of_redirects_is_told_in_a_line(server, tmp_path):
    server.plan = [server.url] * 30
    assert "the server answers 302" in told(fetch, server, tmp_path / "f")


def without_length(*blocks, pause=0.0):
    """An answer that ends where the connection does: after the blocks, or a long time."""

    def answer(handler):
        handler.send_response(200)
        handler.end_headers()
        for block in blocks or [CONTENT[:1000]] * 20_000:
            handler.wfile.write(block)
            time.sleep(pause)

    return answer


def test_a_file_without_a_length_is_taken_to_its_end(server, tmp_path):
    server.plan = [without_length(CONTENT)]
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT
    # One that is shorter than it must be is not taken for whole.
    server.plan = [without_length(CONTENT[:1000])]
    assert "broke at 1000 of 3000000" in told(fetch, server, tmp_path / "g", size=3_000_000, retries=0)


@pytest.mark.parametrize("limit", [{"size": 5_000_000}, {"most_bytes": 5_000_000}])
def test_a_server_that_never_ends_is_stopped(server, tmp_path, limit):
    server.plan = [without_length()]
    assert "sends more than the 5000000 bytes" in told(fetch, server, tmp_path / "f", **limit)
    assert parts(tmp_path) == []


def test_a_server_that_never_ends_leaves_room_on_the_disk(server, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": download_module._KEPT_FREE + 2_000_000})
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda _: usage)
    server.plan = [without_length()]
    assert "sends more than the 2000000 bytes" in told(fetch, server, tmp_path / "f")
    assert parts(tmp_path) == []


def test_a_length_beyond_the_limit_is_refused_before_the_file_is_fetched(server, tmp_path):
    assert "is 3000000 bytes, more than the 1000" in told(fetch, server, tmp_path / "f", most_bytes=1000)
    assert parts(tmp_path) == []


def test_a_part_that_is_longer_than_its_server_says_is_told(server, tmp_path):
    def liar(handler):
        handler.send_response(206)
        handler.send_header("Content-Range", "bytes 0-9/10")
        handler.end_headers()
        handler.wfile.write(CONTENT)

    server.plan = [liar]
    assert "sends more than the 10 bytes" in told(fetch, server, tmp_path / "f")


def test_a_connection_that_trickles_is_broken_off_and_tried_again(server, tmp_path):
    server.plan = [without_length(*[b"x"] * 100, pause=0.02)]
    options = {"timeout_seconds": 0.2, "retries": 0}
    assert "bytes came in 0." in told(fetch, server, tmp_path / "f", **options)
    server.plan = [without_length(*[b"x"] * 100, pause=0.02)]
    assert fetch(server, tmp_path / "f", timeout_seconds=0.2).read_bytes() == CONTENT


def test_a_byte_an_attempt_uses_the_retries_up(server, tmp_path):
    server.plan = [1] * 100
    assert "gave up after 3 retries with 4 bytes" in told(fetch, server, tmp_path / "f", retries=3)


def test_a_file_is_fetched_by_one_process_at_a_time(server, tmp_path):
    with locked(tmp_path / ".f.lock", "the download of f"):
        message = told(fetch, server, tmp_path / "f")
    assert "the download of f is under way in another process" in message
    assert server.ranges == []
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT
    assert parts(tmp_path) == ["f"]


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"url": 1, "validator": 2, "total": "3"}', "[" * 100_000, "\0"])
def test_a_damaged_record_is_not_gone_on_with(server, tmp_path, record):
    (tmp_path / "f.part").write_bytes(OTHER[:1_000_000])
    (tmp_path / "f.part.json").write_text(record)
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "url", ["https://", "https://[::1/f", "https://host:port/f", "https://a b/", "https://" + "a" * 70]
)
def test_an_address_that_is_none_is_told_in_a_line(tmp_path, url):
    assert url in told(download, url, tmp_path / "f", retries=0, backoff_seconds=0.01)


OK = b"HTTP/1.1 200 OK\r\n"
NONSENSE = {
    "nothing": b"",
    "no status": b"nonsense\r\n",
    "a status that is none": b"HTTP/1.1 999 \r\n\r\n",
    "half a header": OK + b"Content-Range",
    "too many headers": OK + b"x: y\r\n" * 200 + b"\r\n",
    "a length that is no number": OK + b"Content-Length: \xb2\r\n\r\n",
    "a chunk that is none": OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a redirect to nowhere": b"HTTP/1.1 302 Found\r\n\r\n",
    "a part of nothing": b"HTTP/1.1 206 Partial\r\n\r\n",
}


@pytest.mark.parametrize("answer", NONSENSE.values(), ids=NONSENSE)
def test_whatever_a_server_answers_it_is_one_line(server, tmp_path, answer):
    server.plan = [lambda handler: handler.wfile.write(answer)] * 2
    message = told(fetch, server, tmp_path / "f", retries=1, timeout_seconds=1, size=3_000_000)
    assert message.startswith(server.url)
    assert not (tmp_path / "f").exists()


def test_a_file_system_that_takes_no_more_is_told_and_gone_on_from(server, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, before[1]))
    try:
        message = told(fetch, server, tmp_path / "f")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert message.startswith(f"{tmp_path / 'f.part'}: cannot be written (File too large)")
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1500000-"]


def test_a_place_that_cannot_be_written_is_told_in_a_line(server, tmp_path):
    (tmp_path / "file").touch()
    assert f"{tmp_path / 'file'}" in told(fetch, server, tmp_path / "file" / "f")
    (tmp_path / "f.part").mkdir()
    assert f"{tmp_path / 'f.part'}" in told(fetch, server, tmp_path / "f")
    (tmp_path / "g").mkdir()
    assert f"{tmp_path / 'g'}" in told(fetch, server, tmp_path / "g", checksum="0" * 32)
