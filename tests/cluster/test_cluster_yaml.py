"""cluster.yaml, cluster-local.yaml: accepted by Ray's own checks, careful about money, open ports and the token."""

import copy
import re
import subprocess
import tomllib
from pathlib import Path

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


def test_workers_come_and_go():
    prepared = prepare(CONFIG)
    assert set(prepared["available_node_types"]) == {prepared["head_node_type"], "gpu_worker"}
    worker = prepared["available_node_types"]["gpu_worker"]
    assert (worker["min_workers"], worker["max_workers"], prepared["max_workers"]) == (0, 4, 4)
    assert worker["resources"]["GPU"] >= 1
    assert 0 < prepared["idle_timeout_minutes"] <= 30
    assert prepared["provider"]["cache_stopped_nodes"] is False
    assert CONFIG["available_node_types"]["head"]["resources"] == {"CPU": 0}, "trials stay off the head"


def test_on_demand_unless_somebody_says_spot():
    for node in prepare(CONFIG)["available_node_types"].values():
        assert "InstanceMarketOptions" not in node["node_config"]
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    with_spot = re.sub(r"# (InstanceMarketOptions:|  MarketType)", r"\1", text)  # without the comment signs
    worker = prepare(yaml.safe_load(with_spot))["available_node_types"]["gpu_worker"]
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


@BOTH
def test_the_job_server_listens_on_the_head_alone(config):
    starts = [command for command in prepare(config)["head_start_ray_commands"] if "ray start" in command]
    assert len(starts) == 1
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "0.0.0.0" not in str(prepare(config)["head_start_ray_commands"])


@BOTH
def test_every_node_demands_the_token_and_has_it(config):
    prepared = prepare(config)
    lines = [*prepared["head_start_ray_commands"], *prepared["worker_start_ray_commands"]]
    starts = [line for line in lines if "ray start" in line]
    assert len(starts) == 2
    for line in starts:
        exports, _, start = line.partition("ray start")
        assert "RAY_AUTH_MODE=token" in exports
        assert subprocess.run(["bash", "-n", "-c", line], check=False).returncode == 0
        assert start
    (target,) = [target for target, source in config["file_mounts"].items() if source == f"~/{TOKEN}"]
    assert target in {f"/home/ray/{TOKEN}", f"~/{TOKEN}"}, "where Ray looks for it"


@BOTH
def test_all_machines_share_a_folder(config):
    text = " ".join(config.get("initialization_commands", []) + config["setup_commands"])
    assert "/mnt/zsharp" in text
    if "docker" in config:
        assert config["docker"]["run_options"] == ["--volume=/mnt/zsharp:/mnt/zsharp"]


def test_ray_accepts_the_local_one_and_no_mistyped_key():
    prepared = prepare(LOCAL)
    assert prepared["max_workers"] == len(LOCAL["provider"]["worker_ips"]) == LOCAL["min_workers"]
    (node_type,) = prepared["available_node_types"]
    assert prepared["head_node_type"] == node_type
    with pytest.raises(jsonschema.ValidationError, match="max_wrokers"):
        prepare(LOCAL | {"max_wrokers": 1})


def test_the_python_of_a_job_on_own_machines_is_the_environment_s():
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "export PATH=~/zsharp_tune/venv/bin:$PATH" in LOCAL[key][-1]


def test_nodes_run_what_is_pinned_here():
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    constraints = dict(line.split("==") for line in pins if "==" in line)
    assert CONFIG["docker"]["image"] == f"rayproject/ray:{constraints['ray']}-py311-gpu"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"].replace("-", "_")
    for config in (CONFIG, LOCAL):
        targets = {source: target for target, source in config["file_mounts"].items()}
        assert set(targets) == {"dist", "constraints.txt", f"~/{TOKEN}"}
        install = config["setup_commands"][-1]
        assert f"{targets['dist']}/{project}-*.whl" in install
        assert f"--constraint {targets['constraints.txt']}" in install
