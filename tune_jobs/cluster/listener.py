"""Finds out what listens at an address that is not what was expected, so that an error can name the likely mistake."""

import socket
import ssl
from contextlib import suppress
from enum import Enum

_LONGEST_ANSWER = 1024
_TLS_ALERT = 0x15
_HTTP2_SETTINGS = b"\x04"


class Listener(Enum):
    """What listens at an address, in words that complete "at this address is"."""

    NOBODY = "no server"
    SSH = "an SSH server"
    TLS = "a server that speaks TLS"
    GRPC = "a gRPC server, as behind Ray's own ports"
    HTTP = "a web server"
    SILENT = "a server that says nothing"
    OTHER = "a server of another kind"


def what_listens(host: str, port: int, within_s: float = 2.0) -> Listener:
    """Returns what listens there; sends nothing but a request for `/` and a TLS greeting.

    Args:
        within_s: How long each of a few steps may take.
    """
    try:
        with socket.create_connection((host, port), within_s) as connection:
            answer = _read(connection, within_s / 4)  # an SSH or gRPC server speaks first
            if not answer:
                with suppress(OSError):
                    connection.sendall(
                        f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
                    )
                answer = _read(connection, within_s)
    except (OSError, OverflowError, UnicodeError):
        return Listener.NOBODY
    if answer.startswith(b"SSH-"):
        return Listener.SSH
    if answer and (answer[0] == _TLS_ALERT or b"HTTPS port" in answer):
        return Listener.TLS
    if answer and answer[:2] == b"\0\0" and answer[3:4] == _HTTP2_SETTINGS:
        return Listener.GRPC
    if answer and answer.startswith(b"HTTP/"):
        return Listener.HTTP
    if not answer and _speaks_tls(host, port, within_s):
        return Listener.TLS
    return Listener.OTHER if answer else Listener.SILENT


def _read(connection: socket.socket, within_s: float) -> bytes:
    connection.settimeout(within_s)
    with suppress(OSError):  # silence, or a reset
        return connection.recv(_LONGEST_ANSWER)
    return b""


def _speaks_tls(host: str, port: int, within_s: float) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent to it
    with suppress(OSError, ValueError), socket.create_connection((host, port), within_s) as plain:
        plain.settimeout(within_s)
        with context.wrap_socket(plain, server_hostname=host):
            return True
    return False
