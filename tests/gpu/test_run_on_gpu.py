"""Whole runs on CUDA devices: one shared GPU (weights by CUDA IPC), and samplers and learner apart (NCCL).

Every published version is compared tensor by tensor with the learner's checksums during the run (sync.verify_every
is 1): a weight that did not arrive ends the run with exit code 5.
"""

from pathlib import Path

import pytest

from orchestration.machine import cuda_devices
from orchestration.watch.metrics import read_metrics
from tests.integration.run_helpers import Finished, quorum

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(450)]

STEPS = 3
SMALL = (
    f"run.num_steps={STEPS}",
    "rollout.prompts_per_step=16",
    "rollout.dtype=bfloat16",
    "rollout.engine.options.gpu_memory_utilization=0.3",
    "rollout.engine.options.enforce_eager=true",
    "data.train.0.size=128",
    "evaluation.data.0.size=50",
    "evaluation.completions_per_prompt=4",
    "cluster.device=cuda",
    "sync.verify_every=1",
)


def train(directory: Path, *overrides: str) -> Finished:
    done = quorum("train", "demo", f"run.dir={directory}", *SMALL, *overrides, timeout=420)
    assert done.code == 0, done.output[-4000:]
    return done


def check_steps(directory: Path) -> None:
    rows = [row for row in read_metrics(directory).to_pylist() if row["learn/num_updates"]]
    assert len(rows) == STEPS
    assert all(row["sync/num_checked_tensors"] > 0 for row in rows)
    assert max(row["sync/logprob_gap_mean"] for row in rows) < 0.02
    assert all(row["learn/grad_norm"] > 0 for row in rows)


@pytest.fixture(scope="module")
def colocated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("gpu") / "colocated"
    train(directory, "cluster.colocate=true", "rollout.num_samplers=1", "learner.num_ranks=1")
    return directory


def test_sampler_and_learner_share_one_gpu_and_weights_go_by_ipc(colocated: Path) -> None:
    check_steps(colocated)


def test_the_exported_model_loads_on_the_gpu_and_is_finite(colocated: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(colocated / "model").to("cuda")
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


@pytest.mark.skipif(len(cuda_devices()) < 2, reason="NCCL needs a GPU for the sampler and another for the learner")
def test_weights_go_by_nccl_between_gpus(tmp_path: Path) -> None:
    train(tmp_path / "nccl", "sync.backend=nccl", "rollout.num_samplers=1", "learner.num_ranks=1")
    check_steps(tmp_path / "nccl")


def test_a_plan_that_the_machines_gpus_cannot_hold_is_refused(tmp_path: Path) -> None:
    too_many = len(cuda_devices()) + 1
    done = quorum(
        "train",
        "demo",
        f"run.dir={tmp_path / 'r'}",
        "cluster.device=cuda",
        f"rollout.num_samplers={too_many}",
        timeout=300,
    )
    assert done.code == 4, done.output[-2000:]
    assert f"this machine has {len(cuda_devices())}" in done.output
