"""cluster.yaml, cluster-local.yaml: accepted by Ray's own checks, careful about money, open ports and the token."""

import copy
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import click
import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
LOCAL = yaml.safe_load((ROOT / "cluster-local.yaml").read_text(encoding="utf-8"))
BOTH = pytest.mark.parametrize("config", [CONFIG, LOCAL], ids=["aws", "local"])
TOKEN = ".ray/auth_token"


def prepare(config: dict) -> dict:
    """Returns the configuration as `ray up` completes it, checked as `ray up` checks it; needs no network."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def test_ray_accepts_it():
    prepared = prepare(CONFIG)
    assert set(prepared["available_node_types"]) == {"head", "gpu_worker"}
    assert prepared["head_node_type"] == "head"


def unknown_key(config: dict) -> None:
    config["max_wrokers"] = 4


def half_a_gpu(config: dict) -> None:
    config["available_node_types"]["gpu_worker"]["resources"]["GPU"] = 0.5


def no_node_config(config: dict) -> None:
    del config["available_node_types"]["gpu_worker"]["node_config"]


def unknown_head(config: dict) -> None:
    config["head_node_type"] = "haed"


def too_many_workers(config: dict) -> None:
    config["available_node_types"]["gpu_worker"]["min_workers"] = 5


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (unknown_key, "max_wrokers"),
        (half_a_gpu, "0.5 is not of type 'integer'"),
        (no_node_config, "'node_config' is a required property"),
        (unknown_head, "head_node_type"),
        (too_many_workers, "max_workers"),
    ],
)
def test_ray_refuses_a_broken_copy(damage: Callable[[dict], None], words: str):
    broken = copy.deepcopy(CONFIG)
    damage(broken)
    with pytest.raises((jsonschema.ValidationError, ValueError), match=words):
        prepare(broken)


def test_workers_come_and_go():
    prepared = prepare(CONFIG)
    worker = prepared["available_node_types"]["gpu_worker"]
    assert (worker["min_workers"], worker["max_workers"], prepared["max_workers"]) == (0, 4, 4)
    assert worker["resources"]["GPU"] >= 1
    assert 0 < prepared["idle_timeout_minutes"] <= 30
    assert prepared["provider"]["cache_stopped_nodes"] is False


def test_on_demand_unless_somebody_says_spot():
    for node in prepare(CONFIG)["available_node_types"].values():
        assert "InstanceMarketOptions" not in node["node_config"]
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    with_spot = yaml.safe_load(
        text.replace("# InstanceMarketOptions:", "InstanceMarketOptions:").replace(
            "#   MarketType", "  MarketType"
        )
    )
    worker = prepare(with_spot)["available_node_types"]["gpu_worker"]
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}, (
        "the comment is one edit from working"
    )


@BOTH
def test_the_job_server_listens_on_the_head_alone(config):
    starts = [command for command in prepare(config)["head_start_ray_commands"] if "ray start" in command]
    assert len(starts) == 1
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "0.0.0.0" not in str(prepare(config)["head_start_ray_commands"])


@BOTH
def test_every_node_demands_the_token_and_has_it(config):
    prepared = prepare(config)
    starts = [
        line
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
        for line in prepared[key]
        if "ray start" in line
    ]
    assert len(starts) == 2
    for line in starts:
        exports, _, start = line.partition("ray start")
        assert "RAY_AUTH_MODE=token" in exports
        assert subprocess.run(["bash", "-n", "-c", line], check=False).returncode == 0
        assert start
    (place,) = [place for place, source in config["file_mounts"].items() if source == f"~/{TOKEN}"]
    assert place in {f"/home/ray/{TOKEN}", f"~/{TOKEN}"}, "where Ray looks for it"


@BOTH
def test_all_machines_share_a_folder(config):
    text = " ".join(config.get("initialization_commands", []) + config["setup_commands"])
    assert "/mnt/zsharp" in text
    if "docker" in config:
        assert config["docker"]["run_options"] == ["--volume=/mnt/zsharp:/mnt/zsharp"]


def test_ray_accepts_the_local_one_and_refuses_broken_copies():
    prepared = prepare(LOCAL)
    assert prepared["max_workers"] == len(LOCAL["provider"]["worker_ips"]) == LOCAL["min_workers"]
    (node_type,) = prepared["available_node_types"]
    assert prepared["head_node_type"] == node_type
    with pytest.raises(click.ClickException, match="worker_ips"):
        prepare(LOCAL | {"provider": {"type": "local", "head_ip": "192.0.2.10"}})
    with pytest.raises(click.ClickException, match="available_node_types"):
        prepare(LOCAL | {"available_node_types": CONFIG["available_node_types"]})
    with pytest.raises(jsonschema.ValidationError, match="max_wrokers"):
        prepare(LOCAL | {"max_wrokers": 1})


def test_the_python_of_a_job_on_own_machines_is_the_environment_s():
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "export PATH=~/zsharp_tune/venv/bin:$PATH" in LOCAL[key][-1]


def test_trials_stay_off_the_head():
    assert CONFIG["available_node_types"]["head"]["resources"] == {"CPU": 0}


def test_nodes_run_what_is_pinned_here():
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    constraints = dict(line.split("==") for line in pins if "==" in line)
    assert CONFIG["docker"]["image"] == f"rayproject/ray:{constraints['ray']}-py311-gpu"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"].replace("-", "_")
    for config in (CONFIG, LOCAL):
        places = {source: place for place, source in config["file_mounts"].items()}
        assert set(places) == {"dist", "constraints.txt", f"~/{TOKEN}"}
        install = config["setup_commands"][-1]
        assert f"{places['dist']}/{project}-*.whl" in install
        assert f"--constraint {places['constraints.txt']}" in install
