"""What comes home from a cluster: whole or not at all, into its folder, and harmless on a terminal."""

import io
import os
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from simulated_search import Driver, small_job

from tune_jobs.cli.printing import Printable, printable
from tune_jobs.errors import ClusterError, JobError
from tune_jobs.ledger.writer import Ledger
from tune_jobs.results.read import read_results
from tune_jobs.submit.fetch import unpack, write_files
from tune_jobs.submit.pack import lines, pack
from tune_jobs.submit.protocol import FILES, LEDGER

ROOT = Path(__file__).parents[2]


@pytest.fixture
def search(tmp_path):
    folder = tmp_path / "search"
    Driver(small_job("search.num_trials=3", "search.sampler=random", "methods=[sam]"), folder).run().close()
    return folder


def test_results_and_report_survive_a_log(search, monkeypatch):
    monkeypatch.setattr("tune_jobs.report.write.write_images", lambda pictures, folder: None)  # takes seconds
    packed = pack(str(search))
    noise = ["Running entrypoint for job x: exec python", "a warning"]
    files = unpack("\n".join([*noise, *lines(packed)]) + "\n")
    assert set(files) == set(FILES) - {"job.yaml"}, "the simulation writes no job.yaml"
    assert files["parquet/trials.parquet"] == (search / "parquet" / "trials.parquet").read_bytes()
    assert files["report.html"].startswith(b"<!")
    assert read_results(search).trials.shape[0] == 3
    (search / LEDGER).write_bytes(unpack("\n".join(lines(pack(str(search), with_ledger=True))))[LEDGER])
    with Ledger.open(search) as ledger:
        assert len(ledger.trials()) == 3


def test_a_search_that_has_not_begun_is_said(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tune_jobs.submit.pack", str(tmp_path / "no\nsearch")],
        capture_output=True, text=True, cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    with pytest.raises(ClusterError, match=r"^Nothing to fetch: .*no search.*"):
        unpack(done.stdout)


def damaged_bytes(log):
    at = log.index("tune-jobs-part ") + 100
    return log[:at] + ("A" if log[at] != "A" else "B") + log[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        damaged_bytes,
        lambda log: log.replace("tune-jobs-part ", "tune-jobs-part !", 1),
        lambda log: log.replace("tune-jobs-part ", "tune-jobs-part é", 1),
        lambda log: log.partition("tune-jobs-part ")[2].partition("\n")[2],
        lambda log: log.rpartition("tune-jobs-end")[0],
        lambda log: log + log,
        lambda log: "",
    ],
    ids=["a letter", "no base64", "no ASCII", "a part lost", "no end", "twice", "nothing"],
)
def test_what_is_damaged_is_refused(damage):
    log = "\n".join(lines(zipped({"job.yaml": os.urandom(100_000)}))) + "\n"
    assert len(unpack(log)["job.yaml"]) == 100_000
    with pytest.raises(ClusterError, match=r"damaged|Nothing to fetch"):
        unpack(damage(log))


def test_only_files_of_an_earlier_fetch_are_replaced(tmp_path):
    write_files(tmp_path, {"job.yaml": b"1", "report.html": b"1"})
    write_files(tmp_path, {"job.yaml": b"2"})
    write_files(tmp_path, {"job.yaml": b"3", "report.html": b"3"})
    assert (tmp_path / "job.yaml").read_bytes() == b"3"
    (tmp_path / "job.yaml").write_bytes(b"edited")
    with pytest.raises(JobError, match=r"^--out: .*job\.yaml"):
        write_files(tmp_path, {"job.yaml": b"4", "report.html": b"4"})
    assert (tmp_path / "job.yaml").read_bytes() == b"edited"
    assert (tmp_path / "report.html").read_bytes() == b"3", "nothing is written"


@pytest.mark.parametrize("record", [None, "", "[]", '{"job.yaml": "mine"}', "[" * 60_000])
@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, os.mkfifo, lambda path: path.symlink_to("x")])
def test_what_fetch_did_not_write_stays(tmp_path, make, record):
    make(tmp_path / "job.yaml")
    if record is not None:
        (tmp_path / ".fetched.json").write_text(record)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(JobError, match=r"^--out: .*job\.yaml"):
        write_files(tmp_path, {"job.yaml": b"1"})
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "parquet/../../x", "report.html/../../x", "other.html"]
)
def test_no_file_gets_out_of_the_folder(name):
    with pytest.raises(ClusterError, match="another name"):
        unpack("\n".join(lines(zipped({"job.yaml": b"x", name: b"x"}))))


def test_a_small_log_cannot_become_a_large_file(monkeypatch):
    bomb = zipped(dict.fromkeys(FILES[:4], b"0" * 3 * 2**20))
    assert len(unpack("\n".join(lines(bomb)))) == 4
    monkeypatch.setattr("tune_jobs.submit.fetch._MAX_UNPACKED_BYTES", 10 * 2**20)  # a real GiB takes seconds
    with pytest.raises(ClusterError, match="1 GiB"):
        unpack("\n".join(lines(bomb)))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_only_what_pack_makes_is_unpacked(method):
    """Damaged LZMA would end in an error of its own, and may ask for gigabytes first."""
    with pytest.raises(ClusterError, match="another way"):
        unpack("\n".join(lines(zipped({"job.yaml": b"x" * 1000}, method))))


@pytest.mark.parametrize("log", ["ab\n" * 200_000, "x" * 10**6, "tune-jobs-failed " + "x" * 10**6])
def test_a_long_log_makes_neither_a_long_message_nor_many_objects(log):
    tracemalloc.start()
    with pytest.raises(ClusterError) as failed:
        unpack(log)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(str(failed.value)) < 2000
    assert peak < 4 * len(log)


def zipped(files, method=zipfile.ZIP_DEFLATED):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method, compresslevel=1) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def test_logs_of_others_do_nothing_to_a_terminal():
    assert printable("\x1b[36mcoloured\x1b[0m \tvalue 50%\r") == "coloured \tvalue 50%"
    assert printable("\x1b]0;title\x07 \x1b[2J \x9b1m \u202e") == r"\x1b]0;title\x07 \x1b[2J \x9b1m \u202e"


def test_lines_that_arrive_in_pieces_are_printed_whole():
    printed = []
    write = Printable(printed.append)
    for piece in ["a\nb", "c \x1b[3", "1mred\n", "end"]:
        write(piece)
    write.close()
    assert printed == ["a\n", "bc red\n", "end\n"]


def test_many_short_lines_are_printed_without_an_object_for_each():
    log = "ab\n" * 500_000
    num_printed = 0

    def count(text):
        nonlocal num_printed
        num_printed += text.count("\n")

    tracemalloc.start()
    Printable(count)(log)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert num_printed == 500_000
    assert peak < 2 * len(log)
