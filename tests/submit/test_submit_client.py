"""Reaching a cluster: addresses, ids and tokens that are refused, before anything is asked or sent."""

import base64
import gc
import hashlib
import json
import os
import socket
import socketserver
import threading
import time
import tracemalloc
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import command_line
import psutil
import pytest
from command_line import assert_refused

from tune_jobs.errors import ClusterError, JobError
from tune_jobs.submit.client import Cluster, answers, checked_address, checked_id, connect
from tune_jobs.submit.fetch import checked_environment, fetch
from tune_jobs.submit.http import Answer, is_loopback
from tune_jobs.submit.http import send as send_request
from tune_jobs.submit.protocol import ENVIRONMENT, FOLDER, PYTHON
from tune_jobs.submit.submit import live_page, start
from tune_jobs.submit.watch import details, follow, logs, stop, submitted

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Runs the command line in an empty folder, where no token of this machine is known."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield command_line.call
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "is_here", "folder", "command"),
    [
        ("http://127.0.0.1:8265", True, "/results/a b", "tune-jobs serve '/results/a b'"),
        ("http://head:8265", False, "s3://bucket/a", "tune-jobs serve s3://bucket/a"),
        ("http://head:8265", False, "/nfs/a", "ssh -t -L 8420:127.0.0.1:8420 head "),
        ("http://127.0.0.1:8265", False, "/nfs/a", "ssh -t -L 8420:127.0.0.1:8420 HEAD "),
    ],
)
def test_how_to_look_at_a_search_on_a_cluster(url, is_here, folder, command):
    assert live_page(Cluster(url, None, is_here, False), folder, "python").startswith(command)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1:8265", "http://127.0.0.1:8265"),
        ("http://head:8265/", "http://head:8265"),
        ("https://cluster.example.org/ray/", "https://cluster.example.org/ray"),
        ("http://[::1]:8265", "http://[::1]:8265"),
    ],
)
def test_addresses(address, url):
    assert checked_address(address) == url


@pytest.mark.parametrize(
    "address",
    [
        *("ray://head:10001", "file:///etc/passwd", "os://x", "http://", "http://a:99999", ""),
        *("http://user:pw@head:8265", "http://head:8265/?x=1", "http://head/#x", "http://he ad:8265"),
        *("http://head\n:8265", "http://he<ad>:8265", "http://he\\ad:8265"),
    ],
)
def test_other_addresses_are_refused(address):
    with pytest.raises(JobError, match=r"^--address: .* expected the job server's http://host:port"):
        checked_address(address)


@pytest.mark.parametrize("job_id", ["..", "../x", "a/b", "a?b", "", ".x", "-x", "a b", "a\n", "x" * 201])
def test_ids_cannot_be_paths(job_id):
    with pytest.raises(JobError, match=r"^ID: "):
        checked_id(job_id)
    assert checked_id("digits-a03daba2") == "digits-a03daba2"


def test_nothing_is_asked_without_a_token_or_a_valid_job(call):
    places = ("RAY_AUTH_TOKEN,", "RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")
    assert_refused(call("submit", "digits", "--address", NOWHERE), ["token: no token: ", *places])
    refused = call("submit", "digits", "--set", "methods=[zsharpp]", "--address", NOWHERE)
    assert_refused(refused, "methods[0]: unknown method 'zsharpp'")


@pytest.mark.parametrize("verb", ["submit", "status", "logs", "stop", "fetch"])
def test_an_address_that_does_not_answer(call, with_token, verb):
    answer = call(verb, *([] if verb == "status" else ["digits"]), "--address", NOWHERE)
    assert_refused(answer, f"--address: '{NOWHERE}' ")
    assert "abc" not in answer[2]


@pytest.mark.parametrize("token", ["two words", "line\nHost: other", "é", "   "])
def test_tokens_that_are_not_one_word_are_refused_and_not_shown(monkeypatch, token):
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(JobError, match=r"^token: .*RAY_AUTH_TOKEN") as refused:
        connect(NOWHERE)
    assert token.strip() == "" or token not in str(refused.value)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["a pipe", "a folder"])
def test_a_token_file_that_is_none_is_refused_at_once(monkeypatch, tmp_path, make):
    make(tmp_path / "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(JobError, match=r"^token: .*/token: found a .*RAY_AUTH_TOKEN"):
        connect(NOWHERE)


@contextmanager
def web_server(answer):
    """A real server on loopback; yields its address and the headers of all requests so far."""
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            received.append((self.path, dict(self.headers)))
            answer(self)

        do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(
            target=server.serve_forever, args=(0.01,)
        )  # seconds between its checks for a stop
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", received
        finally:
            server.shutdown()
            thread.join()


FACTS = {"authentication_mode": "token", "ray_version": "2.60.0"}
JOB = {"type": "SUBMISSION", "submission_id": "digits-1", "status": "SUCCEEDED", "entrypoint": "x"}


def job_server(answer=None):
    """A server that is Ray's as far as `connect` looks; `answer` gives all other answers, by default a job's."""

    def reply(handler):
        if handler.path in ("/api/version", "/api/authentication_mode"):
            send(handler, 200, json.dumps(FACTS).encode())
        elif answer is not None:
            answer(handler)
        else:
            send(handler, 200, json.dumps(JOB).encode())

    return web_server(reply)


def send(handler, status, content=b"", **headers):
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content)


@pytest.fixture
def with_token(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "abc")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)


@pytest.mark.parametrize(
    "content",
    [
        b"[1]",
        b"\xff",
        b"{}",
        b"[" * 60_000,
        b" " * 70_000,
        b'{"ray_version": "2.60.0+local dirty"}',
        b'{"ray_version": []}',
    ],
)
def test_a_server_that_is_not_ray_is_no_cluster(with_token, content):
    with (
        web_server(lambda handler: send(handler, 200, content)) as (address, _),
        pytest.raises(JobError, match=r"^--address: .*(no job server of Ray|it runs Ray )"),
    ):
        connect(address)


def test_a_server_that_does_not_ask_for_a_token_gets_none(with_token):
    with web_server(lambda handler: send(handler, 404)) as (address, requests):
        with pytest.raises(JobError, match=r"/api/authentication_mode has status 404"):
            connect(address)
        assert not any("Authorization" in headers for _, headers in requests)


def test_the_token_follows_no_redirect(with_token):
    with web_server(lambda handler: send(handler, 200, b"{}")) as (thief, stolen):

        def answer(handler):
            if handler.path == "/api/version":
                send(handler, 302, Location=f"{thief}/api/version")
            else:
                send(handler, 200, b'{"authentication_mode": "token"}')

        with web_server(answer) as (address, requests):
            with pytest.raises(JobError, match=r"/api/version has status 302"):
                connect(address)
            assert requests[-1][1]["Authorization"] == "Bearer abc", "the one who asked had it"
    assert stolen == []


@pytest.mark.parametrize("exceptions", ["", "example.org"])
def test_the_token_passes_no_proxy_on_its_way_to_this_machine(with_token, monkeypatch, exceptions):
    """Neither from our own requests nor from those of Ray's client, which uses `requests`."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, exceptions)
    with web_server(lambda handler: send(handler, 200, b"{}")) as (proxy, stolen):
        monkeypatch.setenv("http_proxy", proxy)
        with job_server() as (address, asked):
            port = address.rpartition(":")[2]
            for host in ("127.0.0.1", "LOCALHOST", "127.1", "0.0.0.0"):
                cluster = connect(f"http://{host}:{port}")
                details(cluster, "digits-1")
            assert asked[-1][0] == "/api/jobs/digits-1"
            assert asked[-1][1]["Authorization"] == "Bearer abc"
    assert stolen == []


def test_the_clients_token_follows_no_redirect_and_no_netrc(with_token, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password other\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with (
        web_server(lambda handler: send(handler, 200, b"{}")) as (thief, stolen),
        job_server(lambda handler: send(handler, 302, Location=f"{thief}/x")) as (address, asked),
    ):
        with pytest.raises(ClusterError, match="302"):
            details(connect(address), "digits-1")
        assert asked[-1][1]["Authorization"] == "Bearer abc"
    assert stolen == []


# Ray's client asks in a deprecated way, and does not close a connection that is given up.
@pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_connection_that_falls_silent_does_not_hold_a_log_forever(with_token, monkeypatch):
    monkeypatch.setattr("tune_jobs.submit.watch._SILENT_AT_MOST_S", 0.3)
    is_over = threading.Event()

    def answer(handler):
        if handler.path.endswith("/logs/tail"):
            key = handler.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            accepted = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
            websocket = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accepted}
            handler.protocol_version = "HTTP/1.1"
            send(handler, 101, b"\x81\x03one", **websocket)  # a frame of text
            is_over.wait(20)
        else:
            content = {"logs": "one two"} if handler.path.endswith("/logs") else JOB
            send(handler, 200, json.dumps(content).encode())

    printed = []
    started_s = time.monotonic()
    with job_server(answer) as (address, _):
        follow(connect(address), "digits-1", printed.append)
        is_over.set()
    gc.collect()  # else the connection's warning would come in another test
    assert "".join(printed) == "one two"
    assert time.monotonic() - started_s < 15


def test_an_error_of_millions_of_lines_is_not_taken_apart():
    text = "first\n" + "ab\n" * 200_000 + "last"
    tracemalloc.start()
    with pytest.raises(ClusterError, match=r"error: first last$"), answers():
        raise RuntimeError(text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * len(text)


@pytest.mark.parametrize("version", ["2.9.0", "2.53.0", "2.59.9", "nonsense"])
def test_an_old_ray_is_refused(with_token, version):
    def answer(handler):
        send(handler, 200, json.dumps({"authentication_mode": "token", "ray_version": version}).encode())

    with (
        web_server(answer) as (address, _),
        pytest.raises(JobError, match=f"runs Ray {version}; expected 2.60"),
    ):
        connect(address)


@pytest.mark.parametrize(
    "answer",
    [b"SSH-2.0-OpenSSH_9.2\r\n", b"\0\0\x12\4\0\0\0\0\0\0\3\x7f\xff\xff\xff", b"", b"HTTP/1.1 abc\r\n\r\n"],
    ids=["ssh", "gRPC, such as Ray's own port", "closes", "no status"],
)
def test_what_speaks_no_http_is_named_with_the_likely_mistake(with_token, answer):
    with raw_server(answer) as address, pytest.raises(JobError, match=r"8265.*6379"):
        connect(address)


@contextmanager
def raw_server(*pieces, pause_s=0.0):
    """A server that answers anything with the same bytes, piece by piece."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(9999)
            for piece in pieces:
                with suppress(OSError):
                    self.request.sendall(piece)
                time.sleep(pause_s)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_answers_have_a_size_and_a_time():
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    with raw_server(head, b"x" * 1001) as address, pytest.raises(OSError, match="1,000 bytes"):
        send_request("GET", address, {}, largest_bytes=1000)
    with raw_server(b"HTTP/1.1 500 no\r\n\r\n", b"x" * 1001) as address:
        assert len(send_request("GET", address, {}, largest_bytes=1000).content) == 1000, "an error is cut"
    with raw_server(head, *[b"x"] * 20, pause_s=0.1) as address:
        started_s = time.monotonic()
        with pytest.raises(TimeoutError):
            send_request("GET", address, {}, within_s=0.5)
        assert time.monotonic() - started_s < 1.5


def test_a_large_answer_can_only_be_a_log(monkeypatch):
    """A list of empty lists takes 25 times its size."""
    monkeypatch.setattr("tune_jobs.submit.http._LARGEST_JSON_BYTES", 1000)
    log = json.dumps({"logs": 'a "quoted" \N{SNOWMAN}\n' * 100}).encode()
    assert Answer(200, log).json() == json.loads(log)
    lists = b"[" + b"[]," * 1000 + b"[]]"
    for content in (
        lists,
        b'{"logs": ' + lists + b"}",
        log[:-1] + b', "x": ' + lists + b"}",
        log[:-2],
        log * 2,
    ):
        with pytest.raises(ValueError, match=r"JSON too large|Unterminated"):
            Answer(200, content).json()


RUBBISH = [
    b"",
    b"[]",
    b"null",
    b"[1]",
    b"{}",
    b"\xff",
    b"[" * 60_000,
    b'{"logs": 5}',
    b'{"status": "X"}',
    b'{"metadata": []}',
]


@pytest.mark.parametrize("content", RUBBISH)
@pytest.mark.parametrize("status", [200, 500])
def test_rubbish_from_a_job_server_is_one_line(with_token, content, status):
    verbs = {
        "status ID": lambda cluster: details(cluster, "digits-1"),
        "logs": lambda cluster: logs(cluster, "digits-1"),
        "stop": lambda cluster: stop(cluster, "digits-1"),
        "fetch": lambda cluster: fetch(cluster, "digits-1", Path("nowhere")),
        "logs --follow": lambda cluster: follow(cluster, "digits-1", print),
    }
    with job_server(lambda handler: send(handler, status, content)) as (address, _):
        cluster = connect(address)
        for verb in verbs.values():
            with pytest.raises(ClusterError) as failed:
                verb(cluster)
            assert len(str(failed.value).splitlines()) == 1
        if status == 500 or content not in (b"[]", b"{}"):
            with pytest.raises(ClusterError):
                submitted(cluster)


@pytest.mark.parametrize(
    "text",
    [
        *('{"py_modules": ["/etc"]}', '{"working_dir": "/etc"}', '{"image_uri": "x", "working_dir": "/etc"}'),
        *(
            '{"pip": "/etc/passwd"}',
            '{"pip": ["-r /etc/passwd"]}',
            '{"pip": ["./x"]}',
            '{"pip": {"packages": []}}',
        ),
        *(
            '{"conda": "/x.yaml"}',
            '{"uv": ["x==1"]}',
            '{"pip": ["x==1"], "excludes": []}',
            '{"image_uri": "-v /:/x"}',
        ),
        *('{"image_uri": ["x"]}', "[]", "null", "1", "", "{", "[" * 60_000, '{"env_vars": {"A": "b"}}'),
    ],
)
def test_a_cluster_cannot_name_what_is_sent_to_it(text):
    with pytest.raises(ClusterError, match="nothing was sent"):
        checked_environment(text)


@pytest.mark.parametrize(
    "environment", [{}, {"pip": ["a==1.0", "b-c==2.0rc1"]}, {"image_uri": "host:5000/a/b@sha256:0f"}]
)
def test_what_submit_stores_is_accepted(environment):
    assert checked_environment(json.dumps(environment)) == environment


def test_fetch_sends_nothing_but_our_code(with_token, tmp_path):
    """Neither a folder of this machine that the cluster names, nor anything else."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("PRIVATE")
    environment = {"image_uri": "x", "working_dir": str(secret)}
    metadata = {FOLDER: "/x", PYTHON: "python", ENVIRONMENT: json.dumps(environment)}
    job = json.dumps({**JOB, "metadata": metadata}).encode()
    with job_server(lambda handler: send(handler, 200, job)) as (address, asked):
        with pytest.raises(ClusterError, match="nothing was sent"):
            fetch(connect(address), "digits-1", tmp_path / "out")
        assert {path for path, _ in asked} == {
            "/api/version", "/api/authentication_mode", "/api/jobs/digits-1",
        }  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_an_id_of_the_servers_is_not_used(with_token):
    answer = json.dumps({"job_id": "x", "submission_id": "../../x"}).encode()
    with job_server(lambda handler: send(handler, 200, answer)) as (address, _):
        job_id = start(connect(address), "python", [], {"image_uri": "x"}, name="digits")
    assert checked_id(job_id).startswith("digits-")


@pytest.mark.parametrize("session", ["", "session", "None", "python", "session_", "/"])
def test_a_cluster_is_not_here_because_it_says_so(with_token, monkeypatch, session):
    monkeypatch.setitem(FACTS, "session_name", session)
    with job_server() as (address, _):
        assert not connect(address).is_here


def test_all_spellings_of_this_machine():
    for host in (
        "localhost",
        "LocalHost.",
        "a.localhost",
        "127.0.0.1",
        "127.9.9.9",
        "127.1",
        "0.0.0.0",
        "0x7f000001",
    ):
        assert is_loopback(host), host
    for host in ("::1", "::", "::ffff:127.0.0.1", "2130706433", socket.gethostname()):
        assert is_loopback(host), host
    own = [entry.address for every in psutil.net_if_addrs().values() for entry in every]
    assert all(is_loopback(address) for address in own if address.count(".") == 3)
    for host in ("localhost.example.org", "10.0.0.1", "head", "128.0.0.1", "::ffff:10.0.0.1", ""):
        assert not is_loopback(host), host
