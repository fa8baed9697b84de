"""deploy/rayjob.yaml: what the RayJob CRD of KubeRay takes, and a search that resumes and cannot run away."""

import copy
import json
import re
import shlex
from pathlib import Path

import jsonschema
import pytest
import yaml

from tune_jobs.job.checks import check_job
from tune_jobs.job.plain_yaml import read_mapping
from tune_jobs.submit.protocol import STOP_WAIT_S

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "deploy" / "rayjob.yaml").read_text(encoding="utf-8")
JOB, CONFIG_MAP, CLAIM = yaml.safe_load_all(TEXT)
CLUSTER = JOB["spec"]["rayClusterSpec"]
PODS = [CLUSTER["headGroupSpec"]["template"], *(group["template"] for group in CLUSTER["workerGroupSpecs"])]
SCHEMA = json.loads((Path(__file__).parent / "rayjob_schema.json").read_text())


def strict(schema):
    """The schema as `kubectl apply` uses it: unknown fields are errors, and quantities may be numbers."""
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items() if key != "properties"}
    if "properties" in schema:
        made["properties"] = {name: strict(child) for name, child in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
    return made


def check(job):
    jsonschema.Draft202012Validator(strict(SCHEMA)).validate(job)


def test_the_crd_takes_it():
    check(JOB)
    assert (JOB["apiVersion"], JOB["kind"]) == ("ray.io/v1", "RayJob")


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ("spec", "backofLimit", 3),
        ("spec", "activeDeadlineSeconds", "2d"),
        ("spec", "suspend", "no"),
        ("spec.rayClusterSpec.authOptions", "mode", "tokens"),
        ("spec.rayClusterSpec.workerGroupSpecs.0", "maxReplica", 3),
        ("spec.rayClusterSpec.workerGroupSpecs.0", "minReplicas", 0.5),
        ("spec.rayClusterSpec.workerGroupSpecs.0.template.spec", "container", []),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.containers.0", "imagee", "x"),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.containers.0.volumeMounts.0", "path", "/x"),
    ],
)
def test_the_crd_refuses_a_broken_copy(where, key, value):
    broken = copy.deepcopy(JOB)
    inside = broken
    for step in where.split("."):
        inside = inside[int(step) if step.isdecimal() else step]
    inside[key] = value
    with pytest.raises(jsonschema.ValidationError):
        check(broken)


def test_the_pinned_schema_says_where_it_is_from():
    assert re.search(r"ray-project/kuberay, tag v1\.\d+\.\d+, .*Apache License 2\.0", SCHEMA["$comment"])


def test_it_can_be_suspended_ends_and_resumes():
    spec = JOB["spec"]
    assert spec["suspend"] is False
    assert 0 < spec["activeDeadlineSeconds"] <= 7 * 24 * 3600
    assert spec["backoffLimit"] >= 1
    assert spec["shutdownAfterJobFinishes"] is True
    words = shlex.split(spec["entrypoint"])
    assert words[:4] == ["exec", "python", "-m", "tune_jobs.cli.driver"]
    (out,) = [word.removeprefix("--out=") for word in words if word.startswith("--out=")]
    volumes = {volume["name"]: volume for volume in PODS[0]["spec"]["volumes"]}
    for pod in PODS:
        (container,) = pod["spec"]["containers"]
        (mount,) = [mount for mount in container["volumeMounts"] if out.startswith(mount["mountPath"] + "/")]
        (volume,) = [volume for volume in pod["spec"]["volumes"] if volume["name"] == mount["name"]]
        claim = volume["persistentVolumeClaim"]["claimName"]
        assert claim == CLAIM["metadata"]["name"], "the folder outlives the cluster"
    assert CLAIM["spec"]["accessModes"] == ["ReadWriteMany"]
    assert volumes["job"]["configMap"]["name"] == CONFIG_MAP["metadata"]["name"]
    job_file = Path(words[4])
    assert job_file.name in CONFIG_MAP["data"]
    mounts = PODS[0]["spec"]["containers"][0]["volumeMounts"]
    assert str(job_file.parent) in [mount["mountPath"] for mount in mounts]


def test_a_stop_reaches_the_search():
    variables = yaml.safe_load(JOB["spec"]["runtimeEnvYAML"])["env_vars"]
    assert variables["RAY_JOB_STOP_SIGNAL"] == "SIGTERM"
    assert variables["RAY_JOB_STOP_WAIT_TIME_S"] == str(STOP_WAIT_S)


def test_its_job_is_valid_and_its_data_are_on_the_volume():
    job, problems = check_job(read_mapping(CONFIG_MAP["data"]["job.yaml"], "job.yaml"))
    assert not problems
    assert job.data.root.startswith("/mnt/zsharp/")
    words = shlex.split(JOB["spec"]["entrypoint"])
    assert words[-1].startswith("--wait-for-workers="), "no workers have started yet"
    assert isinstance(job.resources.max_concurrent, int)


def test_workers_come_and_go_and_nobody_gets_in_without_the_token():
    (workers,) = CLUSTER["workerGroupSpecs"]
    assert (workers["replicas"], workers["minReplicas"]) == (0, 0)
    assert workers["maxReplicas"] > 0
    assert CLUSTER["enableInTreeAutoscaling"] is True
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] >= 1
    assert "nodeSelector" not in workers["template"]["spec"], "on demand unless somebody says spot"
    assert CLUSTER["authOptions"] == {"mode": "token"}
    assert CLUSTER["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_versions_are_the_pinned_ones():
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    ray = dict(line.split("==") for line in pins if "==" in line)["ray"]
    assert CLUSTER["rayVersion"] == ray
    docker = (ROOT / "deploy" / "Dockerfile").read_text()
    assert f"FROM rayproject/ray:{ray}-py311-gpu\n" in docker
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE).group(1)
    images = {pod["spec"]["containers"][0]["image"] for pod in PODS}
    assert images == {f"REGISTRY/zsharp-tune:{version}"}
    assert f"REGISTRY/zsharp-tune:{version}" in docker
