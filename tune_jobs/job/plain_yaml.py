"""Reads and writes YAML as job files use it: plain data without tags, aliases or repeated keys."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from tune_jobs.errors import NOTHING, JobError, Problem, show

MAX_BYTES = 2**20
_MAX_DEPTH = 20
_MAX_DIGITS = 100
_MAX_KEYS, _MAX_ITEMS = 1000, 10_000  # of one mapping, of one list: checks compare them with one another

# What text without quotes stands for, by YAML 1.2's core schema. PyYAML follows 1.1, which reads 1e-3 as text, 010 as
# 8, 1:30 as 90 and no as false. The key None makes PyYAML try these whatever the first letter.
_MEANINGS: dict[Any, list[tuple[str, re.Pattern[str]]]] = {
    None: [
        (f"tag:yaml.org,2002:{kind}", re.compile(rf"(?:{pattern})\Z", re.ASCII))
        for kind, pattern in (
            ("null", "~|null|Null|NULL|"),
            ("bool", "true|True|TRUE|false|False|FALSE"),
            ("int", r"[-+]?\d+"),
            ("float", r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
        )
    ]
}


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
        value: object = _Reader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        path = name if error.problem_mark is None else f"{name}, line {error.problem_mark.line + 1}"
        message = ", ".join(part for part in (error.context, error.problem) if part)
        if not isinstance(error, _RefusedError):
            message = f"not YAML: {message}{_remedy(error)}"
        raise JobError([Problem(path, NOTHING, message)]) from None
    except yaml.YAMLError as error:
        raise JobError([Problem(name, NOTHING, f"not YAML: {str(error).splitlines()[0]}")]) from None
    except (OverflowError, ValueError):  # PyYAML passes on what chr() says of "\UFFFFFFFF"
        message = "not YAML: an escape that stands for no character"
        raise JobError([Problem(name, NOTHING, message)]) from None
    return value


def _remedy(error: yaml.MarkedYAMLError) -> str:
    """Returns what usually lies behind an error of the parser."""
    if "'\\t'" in (error.problem or ""):
        return "; indent with spaces, not with tabs"
    if "parsing a flow" in (error.context or "") and error.context_mark is not None:
        return f"; perhaps the bracket of line {error.context_mark.line + 1} is not closed"
    return ""


class _RefusedError(yaml.MarkedYAMLError):
    """YAML that a job file must not contain."""

    def __init__(self, message: str, mark: Any) -> None:
        super().__init__(problem=message, problem_mark=mark)


class _Reader(yaml.SafeLoader):
    yaml_implicit_resolvers = _MEANINGS
    _depth = -1

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuses what plain data does not need before PyYAML reads it: deep nesting would exhaust the stack."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _RefusedError(f"an alias (*{event.anchor}); write the value out", event.start_mark)
        if event.tag is not None:
            raise _RefusedError(f"the tag {show(event.tag)}; only plain data is read", event.start_mark)
        if self._depth >= _MAX_DEPTH:
            raise _RefusedError(f"nested more than {_MAX_DEPTH} levels deep", event.start_mark)
        if isinstance(parent, yaml.CollectionNode):
            limit, parts = (
                (_MAX_KEYS, "keys") if isinstance(parent, yaml.MappingNode) else (_MAX_ITEMS, "items")
            )
            if len(parent.value) >= limit:
                raise _RefusedError(f"more than {limit:,} {parts}, which no job needs", parent.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_scalar(self, node: Any) -> Any:
        text: str = super().construct_scalar(node)
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise _RefusedError("half of a surrogate pair, which is not text", node.start_mark)
        return text

    def construct_yaml_int(self, node: Any) -> int:
        digits = self.construct_scalar(node)
        if len(digits) > _MAX_DIGITS:  # Python's time to read a number grows with the square of its length
            raise _RefusedError(f"a number of more than {_MAX_DIGITS} digits", node.start_mark)
        return int(digits)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuses keys that are not text, and repeated ones, of which PyYAML would keep the last."""
        lines: dict[str, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _RefusedError(f"the key {show(key)} is not text", key_node.start_mark)
            if key in lines:
                raise _RefusedError(
                    f"the key {show(key)} a second time; first on line {lines[key]}", key_node.start_mark
                )
            lines[key] = key_node.start_mark.line + 1
        return super().construct_mapping(node, deep)


_Reader.add_constructor("tag:yaml.org,2002:int", _Reader.construct_yaml_int)


class _Writer(yaml.SafeDumper):
    yaml_implicit_resolvers = _MEANINGS  # text that would be read as something else gets quotes

    def represent_text(self, text: str) -> yaml.ScalarNode:
        # Inside double quotes, characters that cannot be seen are written as escapes.
        return self.represent_scalar("tag:yaml.org,2002:str", text, None if text.isprintable() else '"')


_Writer.add_representer(str, _Writer.represent_text)
