"""What listens at a wrong address is named: real servers on loopback, each of another kind."""

import socket
import threading
from concurrent import futures
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest

from tune_jobs.cluster.listener import Listener, what_listens
from tune_jobs.cluster.ray import connect
from tune_jobs.errors import JobError


@contextmanager
def says(*answers):
    """A server that sends the first answer at once, and each of the others after it was told something."""

    def talk(connection):
        with closing(connection), suppress(OSError):  # the other side may go at any time
            for number, answer in enumerate(answers):
                if number and not connection.recv(1000):
                    return
                connection.sendall(answer)
            connection.recv(1000)  # until the other side has gone

    def accept():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@contextmanager
def web():
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.RequestHandlerClass.log_message = lambda *_: None
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@contextmanager
def rpc():
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None)


@contextmanager
def nobody():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    yield port


KINDS = {
    Listener.SSH: lambda: says(b"SSH-2.0-OpenSSH_9.2\r\n", b"Invalid SSH identification string.\r\n"),
    Listener.TLS: lambda: says(b"", b"\x15\x03\x01\x00\x02\x02\x46"),
    Listener.SILENT: lambda: says(b""),
    Listener.OTHER: lambda: says(b"220 mail.example.org ESMTP\r\n"),
    Listener.HTTP: web,
    Listener.GRPC: rpc,
    Listener.NOBODY: nobody,
}


@pytest.mark.parametrize("kind", Listener)
def test_each_kind_is_recognised(kind):
    with KINDS[kind]() as port:
        assert what_listens("127.0.0.1", port, within_s=0.2) is kind


@pytest.mark.parametrize("kind", [Listener.SSH, Listener.HTTP, Listener.GRPC, Listener.NOBODY])
def test_an_address_of_no_ray_is_refused_at_once(kind, monkeypatch):
    with KINDS[kind]() as port:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        with pytest.raises(JobError) as refused:
            connect()
    (problem,) = refused.value.problems
    assert problem.path == "RAY_ADDRESS"
