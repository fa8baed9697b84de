"""Describes every field of the job file as Markdown, from the JSON Schema that `validate --schema` prints."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tune_jobs.job.load import schema
from tune_jobs.job.space import PARAMETERS

_HEAD = """# The job file

What each field means, what is valid, and its value where a job does not say. `make reference` makes this page from
the job's declarations, which `tune-jobs validate --schema` prints as JSON Schema; [Searching](searching.md) shows how
to use them.
"""
_SPACE = """
## space

Settings by name, each with what is tried: `{uniform: [low, high]}`, `{loguniform: [low, high]}`, `{int: [low, high]}`,
`{choice: [value, ...]}`, or one value for all trials; with `when: {name: value}` only in trials where that holds.
Beyond the names below: any number or name of `train`, such as `train.batch_size`, and of `train.augment`,
`data.image_size`, and `model.NAME`, an argument of your own model or task.

| name | valid | meaning |
|---|---|---|
"""
_LONGEST_LIST = 6  # names in a cell


def job_reference() -> str:
    """Returns the page on the job file."""
    job = schema()
    lines = [_HEAD, *_table(job, job, "")]
    for name, field in job["properties"].items():
        if name == "space":
            rows = (f"| `{row.name}` | {row.valid} | {row.summary} |" for row in PARAMETERS.values())
            lines.append(_SPACE + "\n".join(rows))
        elif (section := _section(job, field)) is not None:
            lines += _of_section(job, section, name)
    return "\n".join(lines) + "\n"


def _of_section(job: Mapping[str, Any], section: Mapping[str, Any], path: str) -> Iterator[str]:
    yield f"\n## {path}\n\n{section['description']}\n"
    yield from _table(job, section, f"{path}.")
    for name, field in section["properties"].items():
        if (inner := _section(job, field)) is not None:
            yield from _of_section(job, inner, f"{path}.{name}")


def _table(job: Mapping[str, Any], section: Mapping[str, Any], prefix: str) -> Iterator[str]:
    yield "| field | valid | default | meaning |\n|---|---|---|---|"
    for name, field in section["properties"].items():
        is_section = name == "space" or _section(job, field) is not None
        if name in section.get("required", ()):
            default = "needed"
        elif (is_section and "anyOf" not in field) or "default" not in field:
            default = ""
        else:
            default = f"`{json.dumps(field['default'])}`"
        valid = f"[section](#{_anchor(prefix + name)})" if is_section else _valid(field)
        valid += " or null" if is_section and "anyOf" in field else ""
        meaning = field["description"].removeprefix("section: ").replace("|", "\\|")
        yield f"| `{prefix}{name}` | {valid} | {default} | {meaning} |"


def _anchor(path: str) -> str:
    return path.replace(".", "")


def _section(job: Mapping[str, Any], field: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for option in (field, *field.get("anyOf", ())):  # one that may be null is an option among two
        if "$ref" in option:
            section: Mapping[str, Any] = job["$defs"][option["$ref"].rpartition("/")[2]]
            return section
    return None


def _valid(field: Mapping[str, Any]) -> str:
    """Returns in words what a field's schema allows."""
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(map(_valid, field["anyOf"])))
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        names = [f"`{name}`" for name in field["enum"]]
        return ", ".join(names) if len(names) <= _LONGEST_LIST else "a name of `tune-jobs list`"
    match field.get("type"):
        case "integer" | "number":
            return _range(field)
        case "array":
            return f"list of: {_valid(field['items'])}" if field.get("items") else "list"
        case "object":
            return "values by name"
        case "boolean":
            return "true, false"
        case "null":
            return "null"
    return "`module:function`" if "pattern" in field and ":" in field["pattern"] else "text"


def _range(field: Mapping[str, Any]) -> str:
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    kind = "whole number" if field["type"] == "integer" else "number"
    ends = [f"{word} {field[key]:,}" for key, word in words.items() if key in field]
    return " ".join([kind, " and ".join(ends)]).strip()
