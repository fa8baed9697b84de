"""What is read from a job file: plain YAML, with the line of what is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from job_files import problems_of

from tune_jobs.job.plain_yaml import read_mapping, write_mapping


@pytest.mark.parametrize(
    ("content", "where", "words"),
    [
        *((text, "{}", "empty") for text in ("", "\n\n", "# only a comment\n", "---\n", "null\n", "~")),
        *((text, "{}", "lines of `key: value`") for text in ("- name: a\n", "name\n", "3\n")),
        ("# " + "x" * 2**20, "job", "1048576 bytes"),
        (b"name: a\nx: \xff\n", "{}, line 2", "not UTF-8"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_files_that_hold_no_mapping(tmp_path, content: str | bytes, where: str, words: str):
    path = tmp_path / "job.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert words in problems_of(str(path))[where.format(path)][1]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("name: a\nname: b\n", 2, "the key 'name' a second time; first on line 1"),
        ("space:\n  lr: 1\n  rho: 2\n  lr: 3\n", 4, "the key 'lr' a second time; first on line 2"),
        ("name: a\ntrain: !!python/object/apply:os.system [ls]\n", 2, "tag"),
        ("name: !!str a\n", 1, "tag"),
        ("a: &a [x]\nb: *a\n", 2, "alias"),
        ("a: &a {b: *a}\n", 1, "alias"),
        ("name: a\n1: b\n", 2, "the key 1 is not text"),
        ("name: a\n? [1]\n: b\n", 2, "is not text"),
        ("name: a\ntrain: {epochs: 1\nspace: {}\n", 3, "not YAML"),
        ("name: a\n\tx: 1\n", 2, "not YAML"),
        ("name: a\n---\nname: b\n", 2, "a single document"),
        ("---\n---\nname: b\n", 2, "a single document"),
        ('name: a\nx: "\\ud800"\n', 2, "surrogate"),
        ("name: a\nx: " + "[" * 5000, 2, "nested more than"),
        ("name: a\ntrain: {epochs: " + "9" * 5000 + "}", 2, "more than 100 digits"),
        ("name: a\ntrain:\n" + "".join(f"  k{i}: 1\n" for i in range(60_000)), 3, "more than 1,000 keys"),
        ("name: a\nmethods: [" + "a, " * 60_000 + "a]", 2, "more than 10,000 items"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_not_plain_data(write, text: str, line: int, words: str):
    source = write(text)
    problems = problems_of(source)
    assert list(problems) == [f"{source}, line {line}"]
    assert words in problems[f"{source}, line {line}"][1]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *dict.fromkeys(["1e-3", "1E-3", "0.001", ".001", "1.0e-3", "+1e-3", "10e-4"], 1e-3).items(),
        ("010", 10),
        ("1.", 1.0),
        ("-.inf", float("-inf")),
        ("true", True),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        *((text, text) for text in ["1:30", "no", "yes", "on", "2020-01-01", "0x10", "1_000", "<<", "="]),
    ],
)
def test_plain_values(text: str, value: object):
    read = read_mapping(f"x: {text}", "file")["x"]
    assert read == value
    assert type(read) is type(value)


@given(st.text(), st.floats(allow_nan=False) | st.integers(-(10**20), 10**20) | st.booleans() | st.none())
def test_yaml_round_trip(text: str, value: object):
    data = {"text": text, "value": [value, {"key": text}]}
    assert read_mapping(write_mapping(data), "file") == data
