"""Standard output that is closed, full, abandoned or of a small character set: verbs say why, or work on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SEARCH = Path(__file__).parents[1] / "fixtures" / "search_of_0_1"


def tune_jobs(words, shell="", **environment):
    """Runs the command line with its output as the shell words say; returns code and errors."""
    done = subprocess.run(
        ["bash", "-c", f'"$@" {shell}; exit ${{PIPESTATUS[0]}}', "bash", sys.executable, "-m", "tune_jobs", *words],
        env=os.environ | environment, capture_output=True, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr.decode()


LIST, VERSION = ["list"], ["--version"]  # one prints with rich, after importing torch; the other is quick


@pytest.mark.parametrize(
    ("words", "shell", "code", "num_lines"),
    [
        (VERSION, ">&-", 0, 0),
        (VERSION, "<&- >&-", 0, 0),
        (VERSION, "2>&- >&-", 0, 0),
        (VERSION, "> /dev/full", 1, 1),
        (VERSION, "| true", 0, 0),
        (LIST, "<&- >&- 2>&-", 0, 0),
        (LIST, "| true", 0, 0),
    ],
)
def test_output_that_fails(words, shell, code, num_lines):
    done, _, errors = tune_jobs(words, shell)
    assert done == code
    assert len(errors.splitlines()) == num_lines, errors


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_output_of_any_encoding(encoding):
    code, out, errors = tune_jobs(["compare", str(SEARCH)], PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert (code, errors) == (0, "")
    assert b"Best on" in out
    out.decode(encoding)


def test_a_closed_stream_is_not_taken_over_by_a_file(tmp_path):
    """The first file that a process opens gets the lowest free number: output would be printed into it."""
    code = """
import os, sys
from tune_jobs.cli.streams import make_lasting
make_lasting()
with open(sys.argv[1], "wb") as file:
    for number in range(3):
        os.write(number, b"printed")
    file.write(b"mine")
"""
    file = tmp_path / "file"
    done = subprocess.run(
        ["bash", "-c", '"$@" <&- >&- 2>&-', "bash", sys.executable, "-c", code, str(file)], timeout=60
    )
    assert done.returncode == 0
    assert file.read_bytes() == b"mine"


@pytest.mark.parametrize("target", ["", ".", "/", "/dev/null", "/dev/stdout", "loop", "x\0y"])
def test_html_targets_that_are_no_files(tmp_path, target, monkeypatch, capsys):
    from tune_jobs.cli.app import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(SEARCH), "--html", target])
    assert ended.value.code == 2
    assert "--html" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]


def test_a_page_does_not_replace_a_file_that_is_no_page(tmp_path, capsys):
    from tune_jobs.cli.app import main

    (tmp_path / "ledger.sqlite").write_bytes(b"SQLite format 3\0")
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(SEARCH), "--html", str(tmp_path / "ledger.sqlite")])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (tmp_path / "ledger.sqlite").read_bytes() == b"SQLite format 3\0"


def test_an_html_target_that_is_a_link_is_written_through(tmp_path, monkeypatch):
    from tune_jobs.cli.app import main

    monkeypatch.setattr("tune_jobs.report.write.write_images", lambda pictures, folder: None)  # takes seconds
    (tmp_path / "target.html").write_text("<!DOCTYPE html>old")
    (tmp_path / "link.html").symlink_to("target.html")
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(SEARCH), "--html", str(tmp_path / "link.html")])
    assert ended.value.code == 0
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "target.html").read_text(encoding="utf-8").startswith("<!")


@pytest.mark.parametrize(
    ("words", "code"),
    [(["validate", "/"], 2), (["validate", "x" * 300], 2), (["fetch", "x-1", "--address", "127.0.0.1:9"], 2)],
)
def test_files_that_cannot_be_used_are_one_line(words, code):
    done, _, errors = tune_jobs(words, RAY_AUTH_TOKEN_PATH="/proc/self/mem")
    assert (done, len(errors.splitlines())) == (code, 1), errors
