"""Reads and writes YAML as job files use it: plain data, no tags, aliases or repeated keys, numbers as in 1e-3."""

import re
from collections.abc import Iterator, Mapping

import yaml

from tune_jobs.errors import NOTHING, JobError, Problem, show

MAX_BYTES = 2**20
_MAX_DEPTH = 20
_MAX_DIGITS = 100

# YAML 1.2's core schema. PyYAML's own is 1.1: it reads 1e-3 as text, 010 as 8, 1:30 as 90 and no as false.
_CONSTANTS = {"": None, "~": None} | {
    spelling: value
    for word, value in (("null", None), ("true", True), ("false", False))
    for spelling in (word, word.capitalize(), word.upper())
}
_INTEGER = re.compile(r"[-+]?[0-9]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_NOT_FINITE = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def read_mapping(text: str, name: str) -> dict[str, object]:
    """Returns the mapping that a YAML file holds; `name` stands for the file in messages.

    Raises:
        JobError: With the line, if the text is not one YAML document of plain data holding a mapping.
    """
    value = read_value(text, name)
    if value is None:
        raise JobError([Problem(name, NOTHING, "the file is empty; expected a job: lines of `key: value`")])
    if not isinstance(value, dict):
        raise JobError([Problem(name, value, "expected a job: lines of `key: value`")])
    return value


def write_mapping(values: Mapping[str, object]) -> str:
    """Returns plain data as YAML that `read_mapping` reads as the same data."""
    return yaml.dump(
        dict(values), Dumper=_Writer, sort_keys=False, allow_unicode=True, default_flow_style=None
    )


def read_value(text: str, name: str) -> object:
    """Returns what a YAML text holds: dicts with text as keys, lists, text, numbers, booleans or None.

    Raises:
        JobError: With the line, if the text is not one YAML document of plain data.
    """
    if len(text) > MAX_BYTES:
        raise JobError([Problem(name, NOTHING, f"longer than {MAX_BYTES} bytes, which no job needs")])
    try:
        events = yaml.parse(text, Loader=yaml.BaseLoader)
        documents: list[object] = []
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if documents:
                    raise _RefusedError(event, "more than one document; expected one")
                documents.append(_build(next(events), events, depth=0))
    except _RefusedError as refusal:
        raise JobError([Problem(f"{name}, line {refusal.line}", NOTHING, refusal.message)]) from None
    except yaml.MarkedYAMLError as error:
        where = name if error.problem_mark is None else f"{name}, line {error.problem_mark.line + 1}"
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise JobError([Problem(where, NOTHING, f"not YAML: {what}")]) from None
    except yaml.YAMLError as error:
        what = str(error).splitlines()[0]
        raise JobError([Problem(name, NOTHING, f"not YAML: {what}")]) from None
    return documents[0] if documents else None


class _RefusedError(Exception):
    """YAML that a job file may not hold."""

    def __init__(self, event: yaml.Event, message: str) -> None:
        super().__init__(message)
        self.line = _line(event)
        self.message = message


def _line(event: yaml.Event) -> int:
    assert event.start_mark is not None, "events of a parser have marks"
    return event.start_mark.line + 1


def _build(event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> object:
    """Returns the value that starts with `event`, taking the rest of it from `events`."""
    if isinstance(event, yaml.AliasEvent):
        raise _RefusedError(event, f"an alias (*{event.anchor}); write the value out")
    if depth > _MAX_DEPTH:
        raise _RefusedError(event, f"nested more than {_MAX_DEPTH} levels deep")
    tag = getattr(event, "tag", None)
    if tag is not None:
        raise _RefusedError(event, f"the tag {show(tag)}; only plain data is read")
    if isinstance(event, yaml.SequenceStartEvent):
        return _build_list(events, depth)
    if isinstance(event, yaml.MappingStartEvent):
        return _build_dict(events, depth)
    assert isinstance(event, yaml.ScalarEvent)
    return _scalar(event)


def _build_list(events: Iterator[yaml.Event], depth: int) -> list[object]:
    values: list[object] = []
    for event in events:
        if isinstance(event, yaml.SequenceEndEvent):
            break
        values.append(_build(event, events, depth + 1))
    return values


def _build_dict(events: Iterator[yaml.Event], depth: int) -> dict[str, object]:
    values: dict[str, object] = {}
    lines: dict[str, int] = {}
    for event in events:
        if isinstance(event, yaml.MappingEndEvent):
            break
        key = _build(event, events, depth + 1)
        if not isinstance(key, str):
            raise _RefusedError(event, f"the key {show(key)} is not text")
        if key in values:
            raise _RefusedError(event, f"the key {show(key)} a second time; first on line {lines[key]}")
        lines[key] = _line(event)
        values[key] = _build(next(events), events, depth + 1)
    return values


class _Writer(yaml.SafeDumper):
    """Quotes text that would be read as something else."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        misread = _plain(text) != text or _INTEGER.fullmatch(text) or not text.isprintable()
        return self.represent_scalar("tag:yaml.org,2002:str", text, style='"' if misread else None)


_Writer.add_representer(str, _Writer.represent_text)


def _scalar(event: yaml.ScalarEvent) -> object:
    text: str = event.value
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise _RefusedError(event, "half of a surrogate pair, which is not text")
    if event.style is not None:  # quoted, or a block of text
        return text
    if _INTEGER.fullmatch(text) and len(text) > _MAX_DIGITS:
        raise _RefusedError(event, f"a number of more than {_MAX_DIGITS} digits")
    return _plain(text)


def _plain(text: str) -> object:
    """Returns what text without quotes stands for."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text) and len(text) <= _MAX_DIGITS:
        return int(text)
    if _FLOAT.fullmatch(text) or _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", "", 1) if _NOT_FINITE.fullmatch(text) else text)
    return text
