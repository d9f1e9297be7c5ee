"""What `run.mode` makes of the parts of a run; the loop itself knows only which stages are there."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import MutableMapping
from pathlib import Path

from configs.schema import RunConfig
from data.prompts import PromptOrder
from orchestration.cluster import on_this_node
from orchestration.labels import Teacher, needs_pairs
from orchestration.plan import ResourcePlan
from orchestration.preflight import Preflight
from orchestration.rollout_phase import RecoveredGroup
from orchestration.stack import Stack
from orchestration.start_times import StartTimes
from orchestration.stored_groups import GroupSource, StoredGroupReader, StoredGroups
from orchestration.weight_sync import NoTransfer, WeightSync
from quorum.types import GroupKey
from rollout.settings import NO_VERSION


def start_stack(
    config: RunConfig,
    plan: ResourcePlan,
    namespace: str,
    *,
    teacher: Teacher | None,
    checkpoint: Path | None,
    times: StartTimes,
) -> Stack:
    """Start the actors that the plan has; where nobody learns, samplers hold the base model as version 0."""
    has_learner = plan.num_ranks > 0
    return Stack.start(
        config,
        plan,
        namespace,
        with_learner=has_learner,
        initial_version=NO_VERSION if has_learner else 0,
        teacher=teacher,
        checkpoint=checkpoint if has_learner else None,
        times=times,
    )


def sync_of(config: RunConfig, stack: Stack, incarnation: int) -> WeightSync | NoTransfer:
    """How versions reach the samplers: not at all where learner or samplers are missing."""
    if stack.learner is None or stack.pool is None:
        return NoTransfer()
    return WeightSync(config, stack.learner, stack.pool, incarnation)


def order_of(config: RunConfig, checked: Preflight) -> PromptOrder:
    """Prompt of every group: the data's, or those of the stored groups in their order."""
    if checked.source is not None:
        return checked.train.order(config.run.seed, shuffle=False)
    return checked.train.order(config.run.seed, config.data.shuffle, in_pairs=needs_pairs(config))


def with_stored_groups(
    source: GroupSource | None, recovered: dict[GroupKey, RecoveredGroup], branch: int
) -> MutableMapping[GroupKey, RecoveredGroup]:
    """Groups that are there already: an earlier incarnation's, then the stored ones of a run without samplers."""
    if source is None:
        return recovered
    import ray

    reader = ray.remote(StoredGroupReader).options(num_cpus=0, scheduling_strategy=on_this_node()).remote()
    return ChainMap(recovered, StoredGroups(source, branch, reader))  # type: ignore[arg-type]


def dtype_notes(config: RunConfig, device: str, *, has_units: bool) -> list[str]:
    """A line where samplers compute in a type that this processor only emulates.

    Args:
        config: of the run.
        device: "cpu" or "cuda".
        has_units: whether the processor multiplies bfloat16.
    """
    if device != "cpu" or config.rollout.dtype != "bfloat16" or has_units:
        return []
    return ["this processor has no bfloat16 units and emulates them: rollout.dtype=float32 is faster"]


def mode_notes(config: RunConfig, checked: Preflight) -> list[str]:
    """What the mode leaves out, in a line each."""
    if config.run.mode == "rollout_only":
        return ["run.mode=rollout_only: nothing is learned, the weights stay the base model's"]
    if checked.source is None:
        return []
    notes = [
        f"run.mode=train_only: nothing is generated; {len(checked.source.places):,} groups of {checked.source.path}"
    ]
    if config.learner.old_source == "current":
        notes.append(
            "every group counts as drawn by the policy that learns from it, with ratio 1; from the second step on that "
            "is only so in a repeat of its own run: learner.old_logprobs=rollout compares with the samplers' policy"
        )
    if config.evaluation.data:
        notes.append("no evaluation without samplers: `quorum eval RUN/model` measures the result")
    return notes
