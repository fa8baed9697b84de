"""Downloads come from a real server, are checked, and happen only when asked for and needed."""

import dataclasses
import hashlib
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import true_format

from zsharp.data import DATASETS, DataError, prepare


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """Serves a small CIFAR-10 archive on loopback; yields its content and the list of requested paths."""
    folder, requests = tmp_path / "remote", []
    folder.mkdir()
    expected = true_format.write_cifar(tmp_path / "made")
    archive = folder / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(tmp_path / "made" / "cifar-10-batches-py", "cifar-10-batches-py")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            requests.append(self.path)

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        url = f"http://127.0.0.1:{server.server_port}/{archive.name}"
        source, md5 = DATASETS["cifar10"], hashlib.md5(archive.read_bytes()).hexdigest()
        remote = dataclasses.replace(source.archives[0], url=url, md5=md5)
        small = true_format.md5_of(tmp_path / "made", source.md5)
        monkeypatch.setitem(DATASETS, "cifar10", dataclasses.replace(source, md5=small, archives=(remote,)))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield expected, requests
        server.shutdown()
        thread.join()


def test_downloads_unpacks_and_does_so_only_where_it_must(cifar10, tmp_path):
    expected, requests = cifar10
    with pytest.raises(DataError, match="give download=True"):
        prepare("cifar10", tmp_path / "made" / "cifar-10-batches-py")
    prepare("cifar10", tmp_path / "made", download=True)
    assert not requests
    prepared = prepare("cifar10", tmp_path / "new" / "root", download=True)
    np.testing.assert_array_equal(prepared.train()[0], expected.train[0])
    assert requests
    requests.clear()
    assert prepare("cifar10", tmp_path / "new" / "root", download=True) == prepared
    assert not requests
    (tmp_path / "made" / "cifar-10-batches-py" / "data_batch_2").write_bytes(b"half")
    assert prepare("cifar10", tmp_path / "made", download=True, cache=tmp_path).info == prepared.info
    assert requests


@pytest.mark.parametrize("changed", [{"md5": "0" * 32}, {"url": "http://127.0.0.1:9/cifar-10-python.tar.gz"}])
def test_a_failed_download_says_how_to_get_it_by_hand(changed, cifar10, tmp_path, monkeypatch):
    """A wrong checksum, or no connection."""
    source = DATASETS["cifar10"]
    archive = dataclasses.replace(source.archives[0], **changed)
    monkeypatch.setitem(DATASETS, "cifar10", dataclasses.replace(source, archives=(archive,)))
    with pytest.raises(DataError, match=r"download failed .*by hand: the unpacked cifar-10-python.tar.gz"):
        prepare("cifar10", tmp_path / "root", download=True)


def test_download_of_what_cannot_be_downloaded(tmp_path):
    assert prepare("digits", download=True, cache=tmp_path / "cache").info.num_classes == 10
    with pytest.raises(DataError, match="no such folder"):
        prepare("parquet", tmp_path / "nothing", download=True)
