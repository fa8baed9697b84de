"""Runs the command line in this process, and checks that a refusal leaves nothing behind."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest

from tune_jobs.cli.app import main


def call(*arguments):
    """Returns exit code, output and error output."""
    before, out, err = sys.argv, io.StringIO(), io.StringIO()
    sys.argv = ["tune-jobs", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
            main()
    finally:
        sys.argv = before
    return stop.value.code or 0, out.getvalue(), err.getvalue()


def files_below(folder):
    return sorted((str(path), path.read_bytes() if path.is_file() else None) for path in folder.rglob("*"))


def assert_refused(answer, *problems):
    """Exit code 2 and printable lines that each say where; with `problems`, one line for each, with its parts."""
    code, out, err = answer
    assert (code, out) == (2, ""), answer
    lines = err.splitlines()
    assert lines
    assert all(line.isprintable() and ":" in line for line in lines), err
    if problems:
        assert len(lines) == len(problems), err
        for line, parts in zip(lines, problems, strict=True):
            assert all(part in line for part in ([parts] if isinstance(parts, str) else parts)), line
