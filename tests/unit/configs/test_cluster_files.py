"""The cluster files: Kubernetes manifests against the fields of KubeRay's types, resources against a run's plan, and
the Slurm script with stand-ins for Slurm and Ray.

The published CRD embeds all of Kubernetes' pod template, a megabyte of schema. Its own fields were checked by hand
against the Go types of KubeRay's API (raycluster_types.go, rayjob_types.go) and are the schema here; unknown fields,
which an API server would drop or refuse, fail.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from configs.load import load_config
from orchestration.plan import make_plan

FOLDER = Path(__file__).parents[3] / "configs" / "cluster"
SLURM = FOLDER / "slurm.sh"
SECONDS = 60


def closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


TEXT, COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": TEXT}
AMOUNTS = {"type": "object", "additionalProperties": {"type": ["string", "integer"]}}
CONTAINER = closed(
    {
        "name": TEXT,
        "image": TEXT,
        "envFrom": {"type": "array", "items": closed({"secretRef": {"type": "object", "required": ["name"]}})},
        "ports": {"type": "array", "items": closed({"containerPort": COUNT, "name": {**TEXT, "maxLength": 15}})},
        "resources": closed({"limits": AMOUNTS, "requests": AMOUNTS}, "limits", "requests"),
        "volumeMounts": {"type": "array", "items": closed({"name": TEXT, "mountPath": TEXT}, "name", "mountPath")},
    },
    "name",
    "image",
)
POD = closed({"spec": closed({"containers": {"type": "array", "items": CONTAINER}, "volumes": {"type": "array"}})})
GROUP = {"rayStartParams": TEXTS, "template": POD}
WORKERS = closed(
    {"groupName": TEXT, "replicas": COUNT, "minReplicas": COUNT, "maxReplicas": COUNT, **GROUP},
    "groupName",
    "minReplicas",
    "maxReplicas",
    "rayStartParams",
    "template",
)
CLUSTER = closed(
    {
        "rayVersion": TEXT,
        "authOptions": closed({"mode": {"enum": ["token", "disabled"]}}),
        "enableInTreeAutoscaling": {"type": "boolean"},
        "autoscalerOptions": closed(
            {"upscalingMode": {"enum": ["Default", "Aggressive", "Conservative"]}, "idleTimeoutSeconds": COUNT}
        ),
        "headGroupSpec": closed(GROUP, "rayStartParams", "template"),
        "workerGroupSpecs": {"type": "array", "items": WORKERS},
    },
    "headGroupSpec",
)
JOB = closed(
    {
        "entrypoint": TEXT,
        "runtimeEnvYAML": TEXT,
        "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
        "shutdownAfterJobFinishes": {"type": "boolean"},
        "ttlSecondsAfterFinished": COUNT,
        "backoffLimit": COUNT,
        "rayClusterSpec": CLUSTER,
    },
    "entrypoint",
    "rayClusterSpec",
)


def manifest(name: str) -> dict[str, Any]:
    """The last document of a file: the cluster or the job."""
    return list(yaml.safe_load_all((FOLDER / name).read_text()))[-1]


def clusters() -> list[dict[str, Any]]:
    return [manifest("kuberay-cluster.yaml")["spec"], manifest("kuberay-job.yaml")["spec"]["rayClusterSpec"]]


@pytest.mark.parametrize(
    ("name", "kind", "schema"),
    [("kuberay-cluster.yaml", "RayCluster", CLUSTER), ("kuberay-job.yaml", "RayJob", JOB)],
)
def test_manifests_have_the_fields_of_kuberay_and_no_others(name: str, kind: str, schema: dict[str, Any]) -> None:
    document = manifest(name)
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", kind)
    jsonschema.validate(document["spec"], schema)
    document["spec"]["worker_groups"] = []
    with pytest.raises(jsonschema.ValidationError, match="worker_groups"):
        jsonschema.validate(document["spec"], schema)


@pytest.mark.parametrize("spec", clusters())
def test_groups_scale_apart_mount_what_they_name_and_ask_for_a_token(spec: dict[str, Any]) -> None:
    assert spec["authOptions"] == {"mode": "token"} and spec["enableInTreeAutoscaling"] is True
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert list(groups) == ["learners", "samplers", "voters"]
    for group in groups.values():
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert groups["samplers"]["minReplicas"] < groups["samplers"]["maxReplicas"]
    for group in [spec["headGroupSpec"], *groups.values()]:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert group["rayStartParams"].get("num-gpus", "0") == str(
            container["resources"]["limits"].get("nvidia.com/gpu", 0)
        )
        assert "env" not in container, "secrets come by envFrom of a Secret, never as values"


@pytest.mark.parametrize("spec", clusters())
def test_every_bundle_of_a_gpu_run_fits_the_group_it_is_meant_for(spec: dict[str, Any], tmp_path: Path) -> None:
    """A pod holds a whole actor; the head none."""
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    overrides = ["cluster.device=cuda", "cluster.address=auto", "cluster.cpus_per_rank=8", "cluster.cpus_per_sampler=4"]
    plan = make_plan(load_config("srt", [*overrides, "learner.num_ranks=4"]), cluster={"CPU": 200.0, "GPU": 100.0})
    limits = {
        group["groupName"]: group["template"]["spec"]["containers"][0]["resources"]["limits"]
        for group in spec["workerGroupSpecs"]
    }
    assert int(limits["learners"]["cpu"]) >= 4 * plan.cpus_per_rank
    assert limits["learners"]["nvidia.com/gpu"] >= 4 * plan.gpus_per_rank
    sampler = plan.sampler(0)
    assert int(limits["samplers"]["cpu"]) >= sampler.cpus and limits["samplers"]["nvidia.com/gpu"] >= sampler.gpus
    assert int(limits["voters"]["cpu"]) >= 1 and "nvidia.com/gpu" not in limits["voters"]


def test_the_job_resumes_a_run_on_shared_storage_and_its_entry_point_parses() -> None:
    from orchestration.jobs import supervisor

    spec = manifest("kuberay-job.yaml")["spec"]
    words = spec["entrypoint"].split()
    assert words[:3] == ["python", "-m", "orchestration.jobs.supervisor"]
    told: list[tuple[Any, ...]] = []

    class Told(supervisor.Supervisor):
        def drive(self, arguments: Any, *, resume: bool = False, again: bool = False) -> int:
            told.append((str(self._run), self._retries, list(arguments), resume))
            return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervisor, "Supervisor", Told)
        patch.setattr(supervisor.signal, "pthread_sigmask", lambda *arguments: None)
        supervisor.main(words[3:])
    ((run, retries, arguments, resume),) = told
    assert resume and retries > 0 and f"run.dir={run}" in arguments and "cluster.address=auto" in arguments
    assert (
        run.startswith("/shared/") and "RAY_JOB_STOP_WAIT_TIME_S" in yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    )


@pytest.fixture
def stand_ins(tmp_path: Path) -> dict[str, str]:
    """An environment with stand-ins for Slurm, Ray and quorum that write down how they were called."""
    tools = tmp_path / "bin"
    tools.mkdir()
    log = tmp_path / "calls"
    record = f'#!/bin/bash\necho "$(basename "$0") $*" >> {log}\n'
    scripts = {
        "scontrol": record + "printf 'n1\\nn2\\nn3\\n'\n",
        # How many nodes are alive: those that were started, as far as the file lets them join.
        "python": f"#!/bin/bash\nstarted=$(grep -c 'ray start' {log})\nmost=$(< {tmp_path}/nodes)\n"
        "echo $((started < most ? started : most))\n",
        "srun": record
        + f'echo "${{SRUN_CPUS_PER_TASK:-none}}" >> {tmp_path}/cpus\n'
        + 'case "$*" in *hostname*) echo 10.0.0.1;; *) exec sleep 30;; esac\n',
        "quorum": record + f'[[ $1 == submit ]] && {{ cp "$RAY_AUTH_TOKEN_PATH" {tmp_path}/token; exit 7; }}\nexit 0\n',
    }
    for name, text in scripts.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    (tmp_path / "nodes").write_text("3\n")
    slurm = {
        "SLURM_JOB_ID": "42",
        "SLURM_JOB_NODELIST": "n[1-3]",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_GPUS_ON_NODE": "4",
    }
    return (
        os.environ
        | slurm
        | {
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "QUORUM_TOKEN_DIR": str(tmp_path / "private"),
        }
    )


def slurm(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SLURM), *words], env=env, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def test_the_slurm_script_starts_head_and_workers_submits_and_returns_the_exit_code(
    stand_ins: dict[str, str], tmp_path: Path
) -> None:
    done = slurm(stand_ins, "my.yaml", "run.dir=/shared/a")
    calls = (tmp_path / "calls").read_text()
    assert done.returncode == 7, done.stderr
    assert calls.count("ray start --head") == 1 and calls.count("--address=10.0.0.1:") == 2
    assert "--num-cpus=8 --num-gpus=4" in calls
    assert "quorum submit my.yaml run.dir=/shared/a --resume --name slurm-42" in calls
    token = (tmp_path / "token").read_text()
    assert len(token) == 64 and token not in calls and token not in done.stdout + done.stderr
    assert list((tmp_path / "private").iterdir()) == [], "the token goes with the job"
    assert calls.index("quorum submit") > calls.rindex("ray start"), "it is submitted once all nodes are there"
    assert (tmp_path / "cpus").read_text().split() == ["8"] * 4, "no step is cut to one CPU"


def test_the_slurm_script_submits_nothing_while_nodes_are_missing(stand_ins: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "nodes").write_text("2\n")
    done = slurm(stand_ins | {"QUORUM_JOIN_SECONDS": "3"}, "my.yaml", "run.dir=/shared/a")
    assert done.returncode == 4 and "2 of 3 nodes joined" in done.stderr
    assert "quorum submit" not in (tmp_path / "calls").read_text()
    assert list((tmp_path / "private").iterdir()) == []


@pytest.mark.parametrize("words", [(), ("my.yaml",), ("my.yaml", "run.dir=runs/a")])
def test_the_slurm_script_wants_a_run_directory_on_shared_storage(
    stand_ins: dict[str, str], tmp_path: Path, words: tuple[str, ...]
) -> None:
    done = slurm(stand_ins, *words)
    assert done.returncode == 2 and "run.dir=/" in done.stderr
    assert not (tmp_path / "calls").exists()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_the_slurm_script_passes_shellcheck() -> None:
    done = subprocess.run(["shellcheck", str(SLURM)], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout
