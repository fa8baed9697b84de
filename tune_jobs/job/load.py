"""Loads a job: a preset or a YAML file, changed by `--set`, with every problem at once."""

from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from tune_jobs.errors import NOTHING, JobError, Problem
from tune_jobs.job.checks import check_job
from tune_jobs.job.overrides import apply_sets
from tune_jobs.job.plain_yaml import MAX_BYTES, read_mapping, write_mapping
from tune_jobs.job.spec import JobSpec
from zsharp.names import did_you_mean

__all__ = ["JobError", "Problem", "dump_job", "load_job", "presets", "schema"]


def load_job(source: str, sets: Sequence[str] = ()) -> JobSpec:
    """Returns the resolved job.

    Args:
        source: The name of a preset, or the path of a YAML file; a preset wins over a file of the same name.
        sets: Changes as `path=value`, the value in YAML, applied in order before anything is checked.

    Raises:
        JobError: With every problem of the file and of the changes.
    """
    values = read_mapping(_read(source), source)
    problems = apply_sets(values, sets)
    job, more = check_job(values)
    if problems or job is None:
        raise JobError(problems + more)
    return job


def dump_job(job: JobSpec) -> str:
    """Returns a resolved job as YAML that `load_job` reads as the same job."""
    return write_mapping(job.model_dump(mode="json"))


def presets() -> dict[str, str]:
    """Returns the presets by name, each with one line on what it is for."""
    return {
        name: file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("#").strip()
        for name, file in _preset_files().items()
    }


def schema() -> dict[str, Any]:
    """Returns the JSON Schema of job files, with the names that are valid in this installation."""
    from tune_jobs.job.space import PARAMETERS
    from zsharp.data import DATASETS
    from zsharp.models import ARCHITECTURES
    from zsharp.optim.methods import METHODS

    schema = JobSpec.model_json_schema()
    properties = schema["properties"]
    properties["architectures"] |= {"items": {"enum": list(ARCHITECTURES)}, "uniqueItems": True}
    properties["methods"] |= {"items": {"enum": list(METHODS)}, "uniqueItems": True}
    properties["space"]["propertyNames"] = {"enum": list(PARAMETERS)}
    schema["$defs"]["DataModel"]["properties"]["name"]["enum"] = list(DATASETS)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _preset_files() -> dict[str, Traversable]:
    folder = files("tune_jobs.job") / "presets"
    found = {
        file.name.removesuffix(".yaml"): file for file in folder.iterdir() if file.name.endswith(".yaml")
    }
    return dict(sorted(found.items()))


def _read(source: str) -> str:
    """Returns the text of a preset or file.

    Raises:
        JobError: If there is neither, or it cannot be read, or it is not text of a sane size.
    """
    found = _preset_files()
    if source in found:
        return found[source].read_text(encoding="utf-8")
    try:
        with Path(source).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        hint = did_you_mean(source, found)
        message = f"neither a preset nor a file; {hint}presets: {', '.join(found)}"
        raise JobError([Problem("job", source, message)]) from None
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else str(error)
        raise JobError([Problem("job", source, f"cannot be read: {what}")]) from None
    if len(content) > MAX_BYTES:
        raise JobError([Problem("job", source, f"longer than {MAX_BYTES} bytes, which no job needs")])
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise JobError([Problem(f"{source}, line {line}", NOTHING, "not UTF-8 text")]) from None
