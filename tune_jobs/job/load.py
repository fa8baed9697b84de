"""Loads a job from a preset or a YAML file, applies `--set`, and reports all problems at once."""

import os
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from tune_jobs.errors import NOTHING, JobError, Problem
from tune_jobs.job.checks import check_job
from tune_jobs.job.code import has_named_module, uses_own_code
from tune_jobs.job.overrides import apply_sets
from tune_jobs.job.plain_yaml import MAX_BYTES, read_mapping, write_mapping
from tune_jobs.job.renamed import RENAMED, to_stored_names
from tune_jobs.job.spec import JobSpec, descriptions
from zsharp.names import did_you_mean

__all__ = ["JobError", "Problem", "dump_job", "load_job", "presets", "schema"]


def load_job(
    source: str | Mapping[str, Any],
    sets: Sequence[str] = (),
    *,
    task: str | None = None,
    loop: str | None = None,
) -> JobSpec:
    """Returns the resolved job.

    Args:
        source: A preset's name or a YAML file's path (a preset wins over a file of the same name), or the values of
            a job file as a mapping.
        sets: Changes as `path=value`, the value in YAML, applied in order before any check.
        task: The job's task, in place of the one in the file.
        loop: The job's training loop, likewise.

    Raises:
        JobError: With all problems of the file and of the changes.
    """
    values = read_mapping(_read(source), source) if isinstance(source, str) else deepcopy(dict(source))
    problems = [*to_stored_names(values), *apply_sets(values, sets)]
    if task is not None:
        values["task"] = task
    if loop is not None:
        train = values.get("train")
        values["train"] = {**(train if isinstance(train, Mapping) else {}), "loop": loop}
    job, more = check_job(values)
    if problems or job is None:
        raise JobError(problems + more)
    beside = Path(source).parent if isinstance(source, str) and source not in _preset_files() else Path()
    return _with_code_folders(_with_weights(job, beside), beside)


def _with_weights(job: JobSpec, beside: Path) -> JobSpec:
    """Returns the job with an absolute path of its weights: beside the job file, else from the working folder."""
    if job.init.weights is None or job.init.weights.startswith("~"):
        return job
    files = (beside / job.init.weights, Path(job.init.weights))
    weights = next((file for file in files if file.is_file()), files[-1]).absolute()
    return job.model_copy(update={"init": job.init.model_copy(update={"weights": str(weights)})})


def _with_code_folders(job: JobSpec, beside: Path) -> JobSpec:
    """Returns the job with absolute folders of code: by default the job file's, then the working folder.

    Of the default, a folder without any module that the job names is left out: it is not the user's code.
    """
    if not job.code and not uses_own_code(job):
        return job
    given = [beside / Path(folder).expanduser() for folder in job.code]
    if not given:
        given = [folder for folder in (beside, Path()) if has_named_module(job, folder)] or [beside]
    folders = dict.fromkeys(str(folder.absolute().resolve()) for folder in given)
    if problems := [
        Problem("code", folder, "no such folder") for folder in folders if not Path(folder).is_dir()
    ]:
        raise JobError(problems)
    return job.model_copy(update={"code": tuple(folders)})


def dump_job(job: JobSpec) -> str:
    """Returns a resolved job as YAML that `load_job` reads as the same job."""
    return write_mapping(job.model_dump(mode="json"))


def presets() -> dict[str, str]:
    """Returns the presets by name, each with a line on its purpose."""
    return {
        name: file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("#").strip()
        for name, file in _preset_files().items()
    }


def schema() -> dict[str, Any]:
    """Returns the JSON Schema of job files, including the valid names of architectures, methods and so on."""
    from tune_jobs.job.searched import MODEL, named_settings
    from zsharp.data import DATASETS
    from zsharp.models import ARCHITECTURES, LIBRARIES
    from zsharp.optim.methods import METHODS

    schema = JobSpec.model_json_schema()
    properties = schema["properties"]
    reference = {"pattern": "^[A-Za-z_][\\w.]*:[A-Za-z_]\\w*$"}
    of_a_library = {"pattern": f"^({'|'.join(LIBRARIES)})/."}
    names = {"anyOf": [{"enum": list(ARCHITECTURES)}, reference, of_a_library]}
    properties["architectures"] |= {"items": names, "uniqueItems": True}
    searched = {
        "anyOf": [{"enum": list(named_settings())}, {"pattern": f"^{re.escape(MODEL)}[^\\W\\d]\\w*$"}]
    }
    without_task = {
        "required": ["data", "architectures"],
        "properties": {"architectures": {"minItems": 1}, "space": {"propertyNames": searched}},
    }
    schema["anyOf"] = [{"required": ["task"]}, without_task]
    properties["methods"] |= {"items": {"enum": list(METHODS)}, "uniqueItems": True}
    schema["$defs"]["DataModel"]["properties"]["name"]["anyOf"] = [{"enum": list(DATASETS)}, reference]
    for model, fields in descriptions().items():
        of_model = schema if model == JobSpec.__name__ else schema["$defs"][model]
        for name, text in fields.items():
            of_model["properties"][name]["description"] = text
    search = schema["$defs"]["SearchModel"]["properties"]
    for (section, name), stored in RENAMED.items():
        search[name] = dict(search[stored])
        earlier = f"earlier name of `{section}.{name}`, which searches are stored with"
        search[stored] |= {"description": earlier, "deprecated": True}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _preset_files() -> dict[str, Traversable]:
    folder = files("tune_jobs.job") / "presets"
    presets = {
        file.name.removesuffix(".yaml"): file for file in folder.iterdir() if file.name.endswith(".yaml")
    }
    return dict(sorted(presets.items()))


def _read(source: str) -> str:
    """Returns the text of a preset or file.

    Raises:
        JobError: If there is neither, or the file cannot be read, is too long or is not text.
    """
    preset_files = _preset_files()
    if source in preset_files:
        return preset_files[source].read_text(encoding="utf-8")
    try:
        with Path(source).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        hint = did_you_mean(source, preset_files)
        message = f"neither a preset nor a file; {hint}presets: {', '.join(preset_files)}"
        raise JobError([Problem("job", source, message)]) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        expected = "expected a preset's name or a YAML file"
        if os.path.isfile(f"{source}/ledger.sqlite"):  # noqa: PTH113 (pathlib's raises where a name is too long)
            expected += f"; `tune-jobs resume {source}` continues the search in that folder"
        raise JobError([Problem("job", source, f"cannot be read: {reason}; {expected}")]) from None
    if len(content) > MAX_BYTES:
        raise JobError([Problem("job", source, f"longer than {MAX_BYTES} bytes, which no job needs")])
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise JobError([Problem(f"{source}, line {line}", NOTHING, "not UTF-8 text")]) from None
