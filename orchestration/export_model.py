"""Weights out of the learner: model/ at the end of a run, and any checkpoint as a Hugging Face directory."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from configs.schema import RunConfig
from learner.group import LearnerGroup
from orchestration.checkpoint import LoopState, checkpoint_of_step, latest_checkpoint
from orchestration.cluster import Cluster
from orchestration.machine import ask_cluster
from orchestration.plan import make_plan
from orchestration.registries import load_run_config
from orchestration.run_dir import resolve_run
from orchestration.signals import StopSignals
from orchestration.storage import fsync_dir, storage_errors
from quorum.errors import ConfigError, DataError


def write_model(learner: LearnerGroup, final: Path) -> None:
    """Write the policy as a Hugging Face directory, whole or not at all; one that is there is replaced.

    Raises:
        LearnerError, StorageError: it was not written.
    """
    beside = final.with_name(f".{final.name}.tmp")
    with storage_errors(final):
        shutil.rmtree(beside, ignore_errors=True)
    learner.export(str(beside))
    with storage_errors(final):
        shutil.rmtree(final, ignore_errors=True)
        os.replace(beside, final)
        fsync_dir(final.parent)


def export(run: str, out: str | Path, *, step: int | None = None, overrides: Sequence[str] = ()) -> LoopState:
    """Write a checkpoint of a run as a Hugging Face directory, with the run's learner ranks and nothing else started.

    Args:
        run: directory or name.
        out: directory to make.
        step: steps done when the checkpoint was saved; None takes the newest.
        overrides: `section.field=value` of operational fields: where the ranks run.

    Returns:
        State of the loop in that checkpoint.

    Raises:
        ConfigError, DataError: `out` exists, there is no such checkpoint, or it is damaged.
        ResourceError: the ranks cannot be placed.
        LearnerError, StorageError: it could not be loaded or written.
    """
    path, final = resolve_run(run), Path(out).absolute()
    config = load_run_config(path / "config.yaml", overrides)
    if final.exists():
        raise ConfigError(f"{final} exists: name a directory that does not")
    found = latest_checkpoint(path) if step is None else checkpoint_of_step(path, step)
    if found is None:
        raise DataError(f"run {path} has no checkpoint yet; they are saved every checkpoint.every_steps steps")
    checkpoint, state = found
    with storage_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
    with _learner_alone(config) as learner:
        learner.load(str(checkpoint))
        write_model(learner, final)
    return state


@contextmanager
def _learner_alone(config: RunConfig) -> Iterator[LearnerGroup]:
    """The ranks of a run, without samplers and voters; everything is stopped on leaving."""
    address = config.cluster.address
    available = None if address == "local" else ask_cluster(address)[0]
    plan = make_plan(config, with_samplers=False, with_voters=False, cluster=available)
    namespace = f"quorum-export-{uuid.uuid4().hex[:12]}"
    with StopSignals():
        cluster = Cluster.start(config, plan, namespace)
        try:
            places = [cluster.place(f"rank-{i}", plan.cpus_per_rank, plan.gpus_per_rank) for i in range(plan.num_ranks)]
            learner = LearnerGroup.start(config, device=plan.device, actor_options=places, namespace=namespace)
            try:
                yield learner
            finally:
                learner.stop()
        finally:
            cluster.stop()
