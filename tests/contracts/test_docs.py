"""The documentation shows what is there: its commands, examples, files, printed output and the map of the code."""

import itertools
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from typer.main import get_command

from tune_jobs.cli.app import app
from tune_jobs.job.checks import check_job
from tune_jobs.job.load import load_job
from tune_jobs.job.load import schema as job_schema
from tune_jobs.report.glossary import as_markdown
from tune_jobs.results import schema
from tune_jobs.submit.code import LIMIT_BYTES
from tune_jobs.submit.pack import MAX_BYTES
from zsharp.sharpness import MEASURES

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
}
CLUSTER_FILES = ("cluster.yaml", "cluster-local.yaml", "deploy/rayjob.yaml")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def blocks(text, language):
    """The fenced blocks of a language, in order."""
    parts = re.split(r"^```(.*)\n", text, flags=re.MULTILINE)
    return [block for opening, block in zip(parts[1::4], parts[2::4], strict=True) if opening == language]


def comments(path):
    """The comments of a YAML file, where commands stand too."""
    lines = path.read_text().splitlines()
    return "\n".join(line.lstrip("# ") for line in lines if line.startswith("#"))


def shown_text(name):
    """Where a page or a cluster file shows commands: blocks without a language, or comments."""
    text = comments(ROOT / name) if name in CLUSTER_FILES else "\n".join(blocks(PAGES[name], ""))
    return text.replace("\\\n", " ")


def commands(name, program="tune-jobs"):
    """The command lines of a program that a page or a cluster file shows, as lists of words."""
    lines = shown_text(name).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith(f"{program} ")]


# --- commands


@pytest.mark.parametrize("name", [*PAGES, *CLUSTER_FILES])
def test_commands_have_these_verbs_and_options(name):
    verbs = get_command(app).commands
    for _, verb, *words in commands(name):
        assert verb in verbs
        options = {option for param in verbs[verb].params for option in param.opts}
        assert {word for word in words if word.startswith("--")} <= options, verb
        if name == "docs/clusters.md" or name in CLUSTER_FILES:
            assert "--address" in words


def test_the_glossary_is_the_one_of_the_report():
    assert PAGES["docs/glossary.md"] == as_markdown(), "python -m tune_jobs.report.glossary writes it"


def test_every_verb_is_shown():
    shown = {words[1] for name in PAGES for words in commands(name)}
    assert shown == set(get_command(app).commands)
    assert len(commands("README.md")) >= 4
    assert all(commands(name) for name in ("cluster.yaml", "cluster-local.yaml"))


def test_python_m_zsharp_has_the_options_shown():
    (words,) = commands("docs/searching.md", "python -m zsharp")
    shown = {word for word in words if word.startswith("--")}
    help_text = subprocess.run(
        [sys.executable, "-m", "zsharp", "-h"], capture_output=True, text=True, check=True
    ).stdout
    assert len(shown) == 6
    assert all(option in help_text for option in shown)


def test_make_has_the_targets_named():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        target
        for text in PAGES.values()
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)
    }
    assert {"search", "test", "bench", "docs", "dist"} <= named <= targets


# --- examples


def test_the_job_file_is_valid():
    text, conditional = map(yaml.safe_load, blocks(PAGES["docs/searching.md"], "yaml"))
    for values in (text, text | {"space": text["space"] | conditional["space"]}):
        job, problems = check_job(values)
        assert not problems
        assert len(job.studies()) == 6


def test_the_changed_preset_is_valid(tmp_path):
    (words,) = commands("docs/searching.md", "tune-jobs run cifar10")
    sets = [words[i + 1].replace("FOLDER", str(tmp_path)) for i, word in enumerate(words) if word == "--set"]
    assert len(sets) == 7
    names = [study.name for study in load_job("cifar10", sets).studies()]
    assert names == ["resnet20-zsharp", "resnet20-base"]


def _after_readme(scope, printed):
    assert scope["mlp"]((1, 8, 8), 10, width=32)(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert float(scope["loss"]) > 0


def _after_optimizers(scope, printed):
    assert all(p.isfinite().all() for p in scope["model"].parameters())
    assert float(scope["loss"]) > 0
    assert float(scope["increase"]) != 0
    assert int(scope["model"][1].num_batches_tracked) > len(blocks(PAGES["docs/optimizers.md"], "python"))


def _after_sharpness(scope, printed):
    assert scope["plane"].shape == (3, 3)
    assert "LargestEigenvalue(value=" in printed


def _after_searching(scope, printed):
    assert len(scope["best"]) >= 2
    assert "param.rho" in printed


def _after_results_folder(scope, printed):
    assert "zsharp" in printed


def _after_recipes(scope, printed):
    tables = [scope[name] for name in ("within", "saved", "pairs", "together")]
    assert all(table.fetchall() for table in tables)
    assert all(len(scope[name]) > 0 for name in ("best", "ends", "stops", "gap", "curves"))
    assert "zsharp {" in printed
    assert len(re.findall("^## ", PAGES["docs/recipes.md"], re.MULTILINE)) == 10


def _after_own_data(scope, printed):
    (train, _), (test, _) = scope["load"]()
    assert train.dtype == test.dtype == "uint8"
    assert train.ndim == 3


def _after_own_model(scope, printed):
    mixed, tuned = map(yaml.safe_load, blocks(PAGES["docs/own_model.md"], "yaml"))
    for values in (mixed, {**mixed, **tuned, "model": {}}):
        assert not check_job(values)[1]
    model = scope["mixer"]((1, 8, 8), 10, width=mixed["model"]["width"])
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)


EXAMPLES = {  # page: its number of examples, and what holds when they have run (docs/controls.md: test_controls)
    "README.md": (2, _after_readme),
    "docs/optimizers.md": (6, _after_optimizers),
    "docs/sharpness.md": (1, _after_sharpness),
    "docs/searching.md": (1, _after_searching),
    "docs/own_model.md": (1, _after_own_model),
    "docs/own_data.md": (1, _after_own_data),
    "docs/results_folder.md": (1, _after_results_folder),
    "docs/recipes.md": (11, _after_recipes),
}


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers:UserWarning",  # Lightning's advice on loaders
    "ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning",  # its use of torch
    "ignore:.*GPU available but not used:UserWarning",
    "ignore:The `srun` command is available:UserWarning",  # where Slurm is installed
)
def test_the_python_examples_run_in_order(name, tmp_path, monkeypatch, capsys):
    shutil.copytree(ROOT / "docs" / "results" / "cifar10_small", tmp_path / "results" / "my_search")
    monkeypatch.chdir(tmp_path)
    at_least, check = EXAMPLES[name]
    examples = blocks(PAGES[name], "python")
    assert len(examples) >= at_least
    torch.manual_seed(0)
    scope = {}
    for code in examples:
        exec(compile(code, name, "exec"), scope)
    check(scope, capsys.readouterr().out)


def test_every_page_with_examples_is_run():
    with_examples = {name for name, text in PAGES.items() if blocks(text, "python")}
    # The code in docs/own_code.md is that of examples/: test_examples.
    assert with_examples == {*EXAMPLES, "docs/controls.md", "docs/own_code.md"}


# --- what pages say of the code


def test_the_printed_search_is_one_of_this_preset():
    """The numbers vary with the order in which two slots finish; what they are about does not."""
    output = re.search(
        r"<!-- output of make search: begin -->(.*?)<!--", PAGES["README.md"], re.DOTALL
    ).group(1)
    best = re.search(r"Best on digits: (\S+) with (\S+), validation accuracy ([01]\.\d{4})", output)
    job = load_job("digits")
    assert best.group(1) in job.architectures
    assert best.group(2) in job.methods
    assert float(best.group(3)) >= 0.95
    rows = re.findall(r"^ ?\*? *(\w+) +[01]\.\d{4} .* (\d+)/(\d+) +(\d+)% +(\d+) ", output, re.MULTILINE)
    assert sorted(row[0] for row in rows) == sorted(job.methods * len(job.architectures))
    assert all(int(row[2]) == job.search.num_trials for row in rows)
    assert any(int(row[3]) > 0 for row in rows), "some trials were pruned"
    assert all(int(row[4]) <= job.search.num_trials * job.train.epochs for row in rows)


@pytest.mark.parametrize("table", ["trials", "epochs", "confirmations"])
def test_every_column_is_described(table):
    text = PAGES["docs/results_folder.md"].split(f"## {table}.parquet")[1].split("\n## ")[0]
    described = {
        name
        for row in re.findall(r"^\| (.*?) \|", text, re.MULTILINE)
        for name in re.findall(r"`(.+?)`", row)
    }
    columns = set(getattr(schema, f"{table}_schema")().names)
    assert len(columns) > 15
    groups = {
        "metric.NAME",
        *(["param.NAME"] if table != "epochs" else []),
        *(["sharpness.NAME"] if table == "confirmations" else []),
    }
    assert described == columns | groups


def test_every_measure_of_sharpness_is_described():
    assert all(f"`{name}`" in PAGES["docs/sharpness.md"] for name in MEASURES)


def test_the_cluster_recipes_say_what_was_tried_and_the_limits_in_force():
    recipes = re.split(r"^## ", PAGES["docs/clusters.md"], flags=re.MULTILINE)[1:]
    assert len(recipes) == 8
    assert all(re.search(r"\*(not )?tried\*", recipe, re.IGNORECASE) for recipe in recipes)
    assert all("```" in recipe for recipe in recipes)
    assert f"below {LIMIT_BYTES / 2**20:.0f} MiB" in PAGES["docs/clusters.md"]
    assert f"at most {MAX_BYTES / 2**20:.0f} MiB" in PAGES["docs/clusters.md"]


# --- the map


def edges(text):
    """The arrows of a Mermaid flowchart, as pairs."""
    lines = [re.split(r"\s*-->\s*", line.strip()) for line in text.splitlines() if "-->" in line]
    return {pair for nodes in lines for pair in itertools.pairwise(nodes)}


def test_the_diagram_is_the_one_that_import_linter_enforces():
    contracts = {
        c["name"]: c for c in PYPROJECT["tool"]["importlinter"]["contracts"] if c["type"] == "layers"
    }
    (jobs,) = [c["layers"] for c in contracts.values() if c["containers"] == ["tune_jobs"]]
    (training,) = [c["layers"] for c in contracts.values() if c["containers"] == ["zsharp"]]
    diagram = blocks(PAGES["docs/structure.md"], "mermaid")[0]
    drawn = set(re.findall(r"^ +(\w+)\[", diagram, re.MULTILINE))
    order = [layer for layer in (*jobs, *training) if layer in drawn]
    assert edges(diagram) == set(itertools.pairwise(order))
    packages = {
        p.parent.name for name in ("tune_jobs", "zsharp") for p in (ROOT / name).glob("*/__init__.py")
    }
    assert len(packages) > 12
    assert packages <= drawn


def test_the_map_names_every_package_and_its_files_are_there():
    text = PAGES["docs/structure.md"]
    for init in (*(ROOT / "tune_jobs").glob("*/__init__.py"), *(ROOT / "zsharp").glob("*/__init__.py")):
        assert f"| `{init.parent.relative_to(ROOT)}/` |" in text
    rows = re.findall(r"^\| `([\w/]+/)` \| .* \| (.*) \|$", text, re.MULTILINE)
    files = [ROOT / package / name for package, cell in rows for name in re.findall(r"`(.+?)`", cell)]
    assert len(files) > 25
    assert not [file for file in files if not file.is_file()]


GENERATED_OR_PAST = {"docs/results.md", "CHANGELOG.md", "docs/log.md"}


@pytest.mark.parametrize("name", sorted({*PAGES} - GENERATED_OR_PAST))
def test_the_files_named_are_there(name):
    folders = "tune_jobs|zsharp|tests|benchmarks|deploy|docs"
    named = set(re.findall(rf"`((?:{folders})/[\w/.-]+)`", PAGES[name]))
    named |= set(re.findall(r"`([\w.-]+\.(?:yaml|toml|txt))`", PAGES[name])) - {"job.yaml"}
    named |= set(re.findall(r"(?:ray up|--filename|--file) ([\w/.-]+)", PAGES[name]))
    if name == "docs/clusters.md":
        deployed = {"deploy/rayjob.yaml", "deploy/Dockerfile", "deploy/slurm.sbatch"}
        assert {"cluster.yaml", "cluster-local.yaml", *deployed} <= named
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("name", [name for name in PAGES if "/" not in name])
def test_links_lead_to_files(name):  # those among the pages of docs/ are checked by make docs
    links = re.findall(r'\]\(([^)#:]+)\)|(?:src|srcset)="([^"]+)"', PAGES[name])
    assert not [link for pair in links for link in pair if link and not (ROOT / link).exists()]


def test_every_page_is_in_the_index():
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert pages == set(re.findall(r"\]\((\w+\.md)\)", PAGES["docs/index.md"]))
    assert all(page in (ROOT / "mkdocs.yml").read_text() for page in pages)


def test_the_front_page_is_short():
    assert len(PAGES["README.md"].encode()) <= 6500


def test_changelog_and_version_agree():
    assert f"## {PYPROJECT['project']['version']}" in PAGES["CHANGELOG.md"]


def test_the_pages_made_from_the_code_are_up_to_date():
    run = runpy.run_path(str(ROOT / "docs" / "make.py"))
    for page, text in run["pages"]().items():
        assert page.read_text(encoding="utf-8") == text, f"{page}: run `make reference`"


def test_every_field_of_the_job_file_is_described():
    whole = job_schema()
    sections = [whole, *(part for name, part in whole["$defs"].items() if name.endswith("Model"))]
    assert len(sections) == 12
    for section in sections:
        for name, field in section["properties"].items():
            assert len(field.get("description", "").split()) > 1, (section["title"], name)
