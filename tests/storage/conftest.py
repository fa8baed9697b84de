"""A real S3 server on loopback, whose answers a test can delay, refuse or cut off."""

import contextlib
import socket
import threading
import time

import boto3
import pytest
from moto.server import ThreadedMotoServer

BUCKET = "searches"


class Gate:
    """A TCP proxy in front of the server: what passes is what a network would let pass.

    Attributes:
        port: Where it listens.
        fail: Answers this many requests with 503 itself.
        cut: Cuts this many connections after their first bytes.
        delay_s: Waits so long before each connection is passed on.
        is_down: Refuses everything.
    """

    def __init__(self, target):
        self._target = target
        self.fail = self.cut = 0
        self.delay_s = 0.0
        self.is_down = False
        self.num_connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def heal(self):
        self.fail = self.cut = 0
        self.delay_s, self.is_down = 0.0, False

    def close(self):
        self._listener.close()

    def _serve(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._handle, args=(client,), daemon=True).start()

    def _handle(self, client):
        self.num_connections += 1
        with client:
            if self.is_down:
                return
            time.sleep(self.delay_s)
            if self.fail > 0:
                self.fail -= 1
                client.recv(65536)
                client.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            if self.cut > 0:
                self.cut -= 1
                client.recv(64)
                return
            with socket.create_connection(self._target) as server:
                there = threading.Thread(target=_pump, args=(client, server), daemon=True)
                there.start()
                _pump(server, client)


def _pump(source, sink):
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (sink, source):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="session")
def server():
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    yield moto.get_host_and_port()
    moto.stop()


@pytest.fixture
def gate(server, monkeypatch, tmp_path):
    gate = Gate(server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{gate.port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    boto3.client("s3", endpoint_url=f"http://{server[0]}:{server[1]}").create_bucket(Bucket=BUCKET)
    yield gate
    gate.close()


@pytest.fixture
def address(gate, request):
    return f"s3://{BUCKET}/{request.node.name.replace('[', '-').replace(']', '')}"
