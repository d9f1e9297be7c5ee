"""In the engine's batch-invariant mode a run whose engine is killed on a shared GPU has the history of a calm one, bit
for bit. Outside that mode tokens depend on what else the engine computes, and only what is on record is exact.

The learner computes in float32, whose attention is the same every time; bfloat16's adds up gradients in any order.
"""

import os
import time
from pathlib import Path

import pytest

from tests.integration.chaos import Chaos
from tests.integration.exact_runs import assert_same
from tests.integration.run_helpers import finish, start

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(460)]

RUN_SECONDS = 220.0
SEED = 1
ENVIRONMENT = {"VLLM_BATCH_INVARIANT": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
WORDS = (
    "train",
    "demo",
    "run.num_steps=6",
    "rollout.prompts_per_step=48",
    "rollout.completions_per_prompt=8",
    "rollout.num_samplers=1",
    "rollout.dtype=bfloat16",
    "rollout.engine.options.gpu_memory_utilization=0.3",
    "rollout.engine.options.enforce_eager=true",
    "learner.num_ranks=1",
    "learner.precision=float32",
    "evaluation.data=[]",
    "report.tensorboard=false",
    "report.audit=false",
    "cluster.device=cuda",
    "cluster.colocate=true",
    "deadlines.rollout_seconds=60",
    "deadlines.probe_seconds=5",
    "rollout.restart.max_backoff_seconds=2",
)


def run(directory: Path, *, blows: int) -> list[str]:
    """Train to the end under so many kills, the first one once groups come in. Returns what was killed."""
    process, began = start(*WORDS, f"run.dir={directory}", env=os.environ | ENVIRONMENT), time.monotonic()
    chaos = Chaos(process.pid, directory, ("engine", "sampler"), SEED, (0.3, 1.0), blows)
    try:
        while blows and not list(directory.glob("groups/*.running.arrow")):
            assert process.poll() is None, finish(process, began).output[-3000:]
            assert time.monotonic() - began < RUN_SECONDS
            time.sleep(0.02)
        chaos.start()
        done = finish(process, began, RUN_SECONDS)
    finally:
        chaos.stop()
    assert done.code == 0, f"{chaos.done}\n{done.output[-4000:]}"
    return chaos.done


def test_a_run_whose_engine_is_killed_has_the_history_of_a_calm_one_in_batch_invariant_mode(tmp_path: Path) -> None:
    run(tmp_path / "calm", blows=0)
    killed = run(tmp_path / "chaos", blows=2)
    assert killed, "nothing was killed before the run ended"
    assert_same(tmp_path / "chaos", tmp_path / "calm")
