"""cluster.yaml: accepted by Ray's own checks, careful about money and open ports."""

import copy
import tomllib
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


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


def test_the_job_server_listens_on_the_head_alone():
    starts = [command for command in prepare(CONFIG)["head_start_ray_commands"] if "ray start" in command]
    assert len(starts) == 1
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "0.0.0.0" not in str(prepare(CONFIG)["head_start_ray_commands"])


def test_trials_stay_off_the_head():
    assert CONFIG["available_node_types"]["head"]["resources"] == {"CPU": 0}


def test_nodes_run_what_is_pinned_here():
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    constraints = dict(line.split("==") for line in pins if "==" in line)
    assert CONFIG["docker"]["image"] == f"rayproject/ray:{constraints['ray']}-py311-gpu"
    assert set(CONFIG["file_mounts"].values()) == {"dist", "constraints.txt"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"].replace("-", "_")
    (install,) = CONFIG["setup_commands"]
    wheels, constraints_file = CONFIG["file_mounts"]
    assert f"{wheels}/{project}-*.whl" in install
    assert f"--constraint {constraints_file}" in install
