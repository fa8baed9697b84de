"""docs/clusters.md and the heads of the cluster files: commands and files that exist."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from tune_jobs.cli.app import app
from tune_jobs.submit.code import LIMIT_BYTES
from tune_jobs.submit.protocol import MAX_BYTES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "clusters.md").read_text()
HEADS = [
    "\n".join(line.lstrip("# ") for line in (ROOT / name).read_text().splitlines() if line.startswith("#"))
    for name in ("cluster.yaml", "cluster-local.yaml", "deploy/rayjob.yaml")
]


@pytest.mark.parametrize(
    "text", [PAGE, *HEADS], ids=["clusters.md", "cluster.yaml", "cluster-local.yaml", "rayjob.yaml"]
)
def test_commands_have_these_verbs_and_options(text):
    lines = text.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("tune-jobs ")]
    assert commands or "kubectl" in text
    verbs = get_command(app).commands
    for _, verb, *words in commands:
        options = {name for param in verbs[verb].params for name in param.opts}
        assert {word for word in words if word.startswith("--")} <= options, verb
        assert "--address" in words


def test_the_files_it_names_are_there():
    named = set(re.findall(r"`([\w/.-]+\.(?:yaml|txt))`", PAGE))
    named |= set(re.findall(r"(?:ray up|--filename|--file) ([\w/.-]+)", PAGE))
    assert {"cluster.yaml", "cluster-local.yaml", "deploy/rayjob.yaml", "deploy/Dockerfile"} <= named
    assert not [name for name in named if not (ROOT / name).exists()]


def test_there_are_six_recipes_each_with_what_was_tried():
    recipes = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    assert len(recipes) == 6
    assert all(re.search(r"\*(not )?tried\*", recipe) for recipe in recipes)
    assert all("```" in recipe for recipe in recipes)


def test_the_limits_are_the_ones_in_force():
    assert f"below {LIMIT_BYTES / 2**20:.0f} MiB" in PAGE
    assert f"at most {MAX_BYTES / 2**20:.0f} MiB" in PAGE
