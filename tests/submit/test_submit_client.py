"""Reaching a cluster: addresses, ids and tokens that are refused, before anything is asked or sent."""

import json
import os
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from tune_jobs.cli.app import main
from tune_jobs.errors import JobError
from tune_jobs.submit.client import checked_address, checked_id, connect

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Runs the command line in an empty folder, without a token of the machine's; returns code, output and errors."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def call(*arguments, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["tune-jobs", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        assert list(tmp_path.iterdir()) == []
        return stop.value.code, printed.out, printed.err

    return call


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
        "http://head\n:8265",
        "http://he<ad>:8265",
        "http://he\\ad:8265",
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


def test_without_a_token_nothing_is_asked(call):
    code, out, err = call("submit", "digits", "--address", NOWHERE)
    assert (code, out) == (2, "")
    assert err.startswith("token: no token: ")
    assert all(place in err for place in ("RAY_AUTH_TOKEN,", "RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token"))


@pytest.mark.parametrize("verb", ["submit", "status", "logs", "stop", "fetch"])
def test_an_address_that_does_not_answer(call, verb):
    code, out, err = call(
        verb, *([] if verb == "status" else ["digits"]), "--address", NOWHERE, RAY_AUTH_TOKEN="abc"
    )
    assert (code, out) == (2, "")
    assert err.startswith(f"--address: '{NOWHERE}' ")
    assert len(err.splitlines()) == 1
    assert "abc" not in err


@pytest.mark.parametrize("token", ["two words", "line\nHost: other", "é", "   "])
def test_tokens_that_are_not_one_word_are_refused_and_not_shown(monkeypatch, token):
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(JobError, match=r"^token: .*RAY_AUTH_TOKEN") as refused:
        connect(NOWHERE)
    assert token.strip() == "" or token not in str(refused.value)


@contextmanager
def web_server(answer):
    """A real server on loopback; yields its address and the headers of all requests so far."""
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            received.append((self.path, dict(self.headers)))
            answer(self)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))  # looks for its end so often
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", received
        finally:
            server.shutdown()
            thread.join()


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


@pytest.mark.parametrize("content", [b"[1]", b"\xff", b"{}"])
def test_a_server_that_is_not_ray_is_no_cluster(with_token, content):
    with (
        web_server(lambda handler: send(handler, 200, content)) as (address, _),
        pytest.raises(JobError, match=r"^--address: .*(no job server of Ray|it runs Ray None)"),
    ):
        connect(address)


def test_a_server_that_does_not_ask_for_a_token_gets_none(with_token):
    with web_server(lambda handler: send(handler, 404)) as (address, requests):
        with pytest.raises(JobError, match=r"/api/authentication_mode is 404"):
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
            with pytest.raises(JobError, match=r"/api/version is 302"):
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
        with web_server(lambda handler: send(handler, 200, b"{}")) as (address, asked):
            with pytest.raises(JobError, match="it runs Ray None"):
                connect(address)
            requests.get(f"{address}/last", timeout=10)
            assert asked[-1][0] == "/last"
    assert stolen == []
    assert exceptions in os.environ["no_proxy"]


@pytest.mark.parametrize("version", ["2.9.0", "2.53.0", "2.59.9", "nonsense"])
def test_an_old_ray_is_refused(with_token, version):
    def answer(handler):
        send(handler, 200, json.dumps({"authentication_mode": "token", "ray_version": version}).encode())

    with (
        web_server(answer) as (address, _),
        pytest.raises(JobError, match=f"runs Ray {version}; expected 2.60"),
    ):
        connect(address)


def test_a_job_that_is_not_valid_is_refused_before_anything_else(call):
    code, out, err = call("submit", "digits", "--set", "methods=[zsharpp]", "--address", NOWHERE)
    assert (code, out) == (2, "")
    assert err.startswith("methods[0]: 'zsharpp'")
