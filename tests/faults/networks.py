"""Network namespaces of this machine, each with an address and a cable that can be pulled."""

import subprocess
from contextlib import contextmanager

import pytest

BRIDGE = "zsharp-br"
HOST = "10.203.117.1"


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Cabled:
    """A namespace: what runs in it, by `prefix`, has an address of its own and reaches others by its cable."""

    def __init__(self, number):
        self.name, self._cable = f"zsharp-ns{number}", f"zsharp-v{number}"
        self.host = f"10.203.117.{number + 1}"
        self.prefix = ("ip", "netns", "exec", self.name)
        ip("netns", "add", self.name)
        ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", self._cable, "master", BRIDGE, "up")
        ip("-n", self.name, "addr", "add", f"{self.host}/24", "dev", "eth0")
        ip("-n", self.name, "link", "set", "eth0", "up")
        ip("-n", self.name, "link", "set", "lo", "up")

    def cut(self):
        ip("link", "set", self._cable, "down")

    def mend(self):
        ip("link", "set", self._cable, "up")

    def remove(self):
        ip("link", "del", self._cable)
        ip("netns", "del", self.name)


@contextmanager
def cabled(number):
    """Yields namespaces that reach each other and, at HOST, this machine; skips where that is not allowed."""
    try:
        ip("link", "add", BRIDGE, "type", "bridge")
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"no network can be made here: {getattr(error, 'stderr', error)}")
    spaces = []
    try:
        ip("addr", "add", f"{HOST}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        spaces += [Cabled(i) for i in range(1, number + 1)]
        yield spaces
    finally:
        for space in spaces:
            space.remove()
        ip("link", "del", BRIDGE)
