"""The run that nothing disturbs, and what must be equal in one that kills, resumes and restarts have been through."""

from __future__ import annotations

import os
from pathlib import Path

from orchestration.watch.metrics import METRICS, read_metrics
from tests.integration.run_helpers import history

STEPS, PROMPTS, K, SAVED_EVERY = 8, 48, 8, 2
OF_THIS_RUN_ALONE = {
    "rollout/num_recovered",
    "rollout/prefilled_ratio",
    "rollout/num_samplers",
    "rollout/num_lost",
    "rollout/num_requeued",
    "rollout/idle_share",
    "rollout/length_bias_ratio",
    "learn/idle_share",
    "learn/mfu_share",
    "time/bubble_share",
    "sync/num_checked_tensors",
    "vote/num_replicas",
}
"""What a resumed run did not generate it did not prefill either; what became of the samplers is no history, nor are
shares of time."""


def arguments(run: Path, *overrides: str) -> list[str]:
    """Of `quorum`, for a run on the demo's model whose ranks can be sabotaged."""
    return [
        "train",
        "demo",
        f"run.dir={run}",
        f"run.num_steps={STEPS}",
        "run.plugins=[tests.integration.saboteur]",
        "learner.algorithm=sabotaged",
        f"rollout.prompts_per_step={PROMPTS}",
        f"rollout.completions_per_prompt={K}",
        "rollout.num_samplers=1",
        "evaluation.data=[]",
        f"checkpoint.every_steps={SAVED_EVERY}",
        "report.tensorboard=false",
        "report.audit=false",
        *overrides,
    ]


def environment(folder: Path) -> dict[str, str]:
    """With the directory whose files say what is to fail."""
    folder.mkdir(exist_ok=True)
    return os.environ | {"SABOTAGE": str(folder)}  # read by tests.integration.saboteur, in the ranks


def assert_same(run: Path, other: Path) -> None:
    """Canonical ledger, groups, weights, and every metric that is no time."""
    ours, theirs = history(run), history(other)
    assert ours.ledger == theirs.ledger
    assert ours.groups == theirs.groups
    assert ours.weights == theirs.weights
    assert measured(run) == measured(other)


def measured(run: Path) -> list[dict[str, float]]:
    """Every metric of a run's history, by step."""
    timed = {name for name, spec in METRICS.items() if spec.unit in ("seconds", "tokens/s")}
    kept = ["step", *(name for name in METRICS if name not in timed | OF_THIS_RUN_ALONE)]
    return [{name: row[name] for name in kept if row.get(name) is not None} for row in read_metrics(run).to_pylist()]
