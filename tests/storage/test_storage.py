"""Remote folders against a real S3 server: whole objects, true errors, no secrets."""

import pickle
import time

import pytest

from tune_jobs.errors import JobError, StorageError
from tune_jobs.storage import RemoteFolder, address_problem, is_address


def test_objects_are_written_listed_read_and_deleted(address, tmp_path):
    folder = RemoteFolder(address)
    assert folder.names() == folder.names("deep/er") == []
    assert folder.read("missing") is None
    assert folder.pull("missing", tmp_path / "x") is False
    for i in range(12):
        folder.write(f"deep/{i}", b"%d" % i * 1000)
    folder.write("deep/3", b"again")
    assert folder.names("deep") == sorted(str(i) for i in range(12))
    assert folder.names() == []  # only objects of this folder
    assert folder.read_all(["deep/3", "deep/none", "deep/0"]) == [b"again", None, b"0" * 1000]
    assert folder.pull("deep/1", tmp_path / "sub" / "one")
    assert (tmp_path / "sub" / "one").read_bytes() == b"1" * 1000
    folder.push(tmp_path / "sub" / "one", "copy")
    assert folder.read("copy") == b"1" * 1000
    folder.delete(["deep/1", "deep/never"])
    assert len(folder.names("deep")) == 11
    assert pickle.loads(pickle.dumps(folder)).read("deep/3") == b"again"


INVALID = "http://a/b s3://bucket s3:///x s3://key:secret@bucket/x s3://b/x?secret_key=1 s3://b/../x x://b/c"


@pytest.mark.parametrize("address", INVALID.split())
def test_invalid_addresses_are_refused_without_repeating_secrets(address):
    assert address_problem(address)
    with pytest.raises(JobError) as error:
        RemoteFolder(address)
    assert "secret" not in str(error.value).replace("credentials", "")


def test_paths_are_not_addresses():
    assert not is_address("results/x")
    assert is_address("s3://b/x")
    assert address_problem("s3://bucket/some/folder") is None


@pytest.mark.parametrize("kind", ["fail", "cut"])
def test_a_few_bad_answers_are_got_over(gate, address, kind):
    folder = RemoteFolder(address)
    folder.write("a", b"1")
    setattr(gate, kind, 2)  # each further one doubles the pause before the next try
    folder.write("a", b"2")
    setattr(gate, kind, 1)
    assert folder.read("a") == b"2"
    assert getattr(gate, kind) == 0


def test_a_slow_server_is_waited_for(gate, address):
    gate.delay_s = 0.3
    start_s = time.monotonic()
    RemoteFolder(address).write("a", b"1")
    assert time.monotonic() - start_s > 0.3
    gate.heal()
    assert RemoteFolder(address).read("a") == b"1"


def test_a_missing_bucket_and_a_dead_server_are_errors_with_the_address(gate, address, monkeypatch):
    with pytest.raises(StorageError, match="s3://no-such-bucket/x"):
        RemoteFolder("s3://no-such-bucket/x").write("a", b"1")
    monkeypatch.setattr("tune_jobs.storage._ATTEMPTS", 2)
    gate.is_down = True
    with pytest.raises(StorageError, match=address):
        RemoteFolder(address).write("a", b"1")
