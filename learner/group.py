"""Driver side of the learner: starts the ranks, gives collective orders, and names the rank that fails.

Every call is bounded. When one rank fails, the others may be stuck in a collective with it, so they are killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from configs.schema import RunConfig
from learner.checkpoint import publish_checkpoint
from learner.orders import StepFactors, StepOrders, StepPlan, StepSums, needed_groups, plan_step
from learner.rank import LANES, Rank, RankSettings
from learner.rank_calls import RankCalls
from learner.registry import ALGORITHMS
from learner.transfer_lane import WeightsOf
from quorum.errors import ResourceError
from quorum.types import GroupScores, TrainingBatch, TransferInit, UpdateStats, WeightManifest

HEED_SECONDS = 2.0
"""For a rank on this machine to heed Ray's order to end; a process that was stopped never would."""


class Saving(NamedTuple):
    """A checkpoint that the ranks have written and are hashing."""

    path: str
    description: dict[str, Any]
    """For its manifest."""
    hashes: list[Any]
    """Reference of each rank's. Not handed to another call as arguments: those would hold up the calls after it."""


class LearnerGroup(RankCalls):
    """All learner ranks. Made by `start`."""

    def __init__(self, config: RunConfig, actors: Sequence[Any], device: str) -> None:
        super().__init__(actors)
        self.config = config
        self.device = device
        self._version = 0
        self._may_share = False
        self.factors = StepFactors()
        """Of the steps from now on; the guard changes them."""
        self.start_seconds: dict[str, float] = {}
        """Of the slowest rank, by what it did while it started."""

    @classmethod
    def start(
        cls,
        config: RunConfig,
        *,
        device: str = "cpu",
        actor_options: Sequence[Mapping[str, Any]] | None = None,
        namespace: str | None = None,
        keeps_average: bool = False,
    ) -> LearnerGroup:
        """Place all ranks and bring them up in parallel, within `deadlines.start_seconds`.

        Args:
            config: the run's configuration.
            device: "cpu" or "cuda".
            actor_options: Ray options of each rank (resources, placement); None asks for cpus_per_rank CPUs each.
            namespace: Ray namespace in which ranks are named "learner-rank-N"; None leaves them unnamed.
            keeps_average: whether a moving average of the policy can be published too.

        Raises:
            ResourceError: a rank could not be placed; says which, and what it asks for.
            DataError: the model cannot be loaded.
            LearnerError: a rank failed while it started, or did not finish.
        """
        import ray

        num_ranks = config.learner.num_ranks
        options = actor_options or [{"num_cpus": config.cluster.cpus_per_rank}] * num_ranks
        if len(options) != num_ranks:
            raise ValueError(f"{num_ranks} ranks need as many actor_options, got {len(options)}")
        actor_class = ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups=LANES)(Rank)
        actors = []
        for rank, given in enumerate(options):
            names = {"name": f"learner-rank-{rank}", "namespace": namespace} if namespace else {}
            on_loopback = config.cluster.address == "local"
            settings = RankSettings(config, rank, num_ranks, device, on_loopback, keeps_average)
            actors.append(actor_class.options(**names, **given).remote(settings))
        group = cls(config, actors, device)
        try:
            group._bring_up(options)
        except BaseException:
            group.kill()
            raise
        return group

    def _bring_up(self, options: Sequence[Mapping[str, Any]]) -> None:
        import ray

        seconds = self.config.deadlines.start_seconds
        began = time.monotonic()
        deadline = began + seconds
        refs = [actor.describe.remote() for actor in self.actors]
        _, pending = ray.wait(refs, num_returns=len(refs), timeout=seconds)
        if pending:
            named = [f"rank {i} (needs {_needs(options[i])})" for i, ref in enumerate(refs) if ref in pending]
            held = {k: v for k, v in ray.cluster_resources().items() if k in ("CPU", "GPU")}
            raise ResourceError(
                f"learner {', '.join(named)} could not be placed within {seconds:.0f} s; the cluster has {held} "
                "in all; free resources, or ask for fewer ranks (learner.num_ranks)"
            )
        self.processes = self._collect(refs, "placement", seconds)
        remaining = max(1.0, deadline - time.monotonic())
        placed = time.monotonic() - began
        host, port = self._one(0, "open_rendezvous", timeout=remaining)
        took = self._all("start", host, port, phase="start", timeout=max(1.0, deadline - time.monotonic()))
        shares = self._all("may_share", phase="start", timeout=max(1.0, deadline - time.monotonic()))
        self._may_share = all(shares)
        slowest = max(took, key=lambda phases: sum(phases.values()))
        self.start_seconds = {"process": placed, **slowest}

    def rebuild(self, config: RunConfig, *, keeps_average: bool = False) -> None:
        """Begin another run in the living ranks: models, optimizer and settings anew from its base model.

        Args:
            config: of that run, alike in `cluster`, `deadlines`, ranks, ZeRO stage and sequence parallelism.
            keeps_average: see `start`.

        Raises:
            DataError: the model cannot be loaded. All ranks have been killed.
            LearnerError: a rank died or failed, or did not finish within `deadlines.start_seconds`; likewise.
        """
        on_loopback = config.cluster.address == "local"
        count = len(self.actors)
        settings = [RankSettings(config, i, count, self.device, on_loopback, keeps_average) for i in range(count)]
        refs = [actor.rebuild.remote(given) for actor, given in zip(self.actors, settings, strict=True)]
        seconds = config.deadlines.start_seconds
        took = self._collect(refs, "the start of another run", seconds)
        self._may_share = all(self._all("may_share", phase="start", timeout=seconds))
        self.config, self._version = config, 0
        self.start_seconds = max(took, key=lambda phases: sum(phases.values()))

    def describe(self) -> list[tuple[str, int]]:
        """Name and process id of every rank."""
        return [(f"rank {i}", process["pid"]) for i, process in enumerate(self.processes)]

    def update(self, batch: TrainingBatch, meanwhile: Callable[[float], None] | None = None) -> UpdateStats:
        """Take a step's updates on a batch; blocks.

        An empty batch (no trained completion, or no tokens) makes no update and says so: `num_updates` is 0.

        Args:
            batch: its groups are ScoredGroups or references to them, which only the ranks resolve.
            meanwhile: called again and again while the ranks work, with the seconds it may take.

        Raises:
            NonFiniteLoss: the optimizer was not stepped; restart the learner from a checkpoint to go on.
            LearnerError: a rank died or failed, or made no progress for `deadlines.learn_seconds`.
        """
        start = time.monotonic()
        planned = plan_step(batch, self.config, self.device, may_share=self._may_share)
        if planned is None:
            return self._no_update(batch.step)
        refs = [
            actor.update.remote(replace(orders, groups=_references(batch, orders), factors=self.factors))
            for actor, orders in zip(self.actors, planned.orders, strict=True)
        ]
        what, limit = f"the update of step {batch.step}", self.config.deadlines.learn_seconds
        results = self._collect(refs, what, limit, on_progress=True, meanwhile=meanwhile)
        self._version += bool(results[0].num_updates)
        return self._stats(batch.step, planned, results[0], time.monotonic() - start)

    def score(self, groups: Sequence[Any]) -> list[GroupScores]:
        """Entropies and self-certainty of finished groups under the policy as it is; blocks.

        Args:
            groups: references to RolloutGroups, which only the ranks resolve.

        Returns:
            In the same order.

        Raises:
            LearnerError: a rank died or failed, or made no progress for `deadlines.learn_seconds`.
        """
        together = self.config.learner.sequence_parallel_size  # ranks that share sequences score the same groups
        count = len(self.actors) // together
        refs = [actor.score.remote(list(groups[i // together :: count])) for i, actor in enumerate(self.actors)]
        parts = self._collect(refs, "the scores of the groups", self.config.deadlines.learn_seconds, True)[::together]
        return [parts[i % count][i // count] for i in range(len(groups))]

    def _no_update(self, step: int) -> UpdateStats:
        nothing = dict.fromkeys(("loss", "grad_norm", "kl", "entropy", "logprob_gap", "clip_share", "seconds"), 0.0)
        return UpdateStats(step=step, version=self._version, num_updates=0, num_tokens=0, **nothing)

    def _stats(self, step: int, planned: StepPlan, sums: StepSums, seconds: float) -> UpdateStats:
        return UpdateStats(
            step=step,
            version=self._version,
            num_updates=sums.num_updates,
            loss=sums.loss,
            grad_norm=sums.grad_norm,
            kl=sums.mean("kl"),
            entropy=sums.mean("entropy"),
            logprob_gap=sums.mean("gap"),
            clip_share=sums.mean("clipped"),
            num_tokens=sums.num_tokens,
            seconds=seconds,
            extra={
                "learn/learning_rate": sums.learning_rate,
                "learn/num_micro_batches": float(sum(plan.num_micro_batches for plan in planned.plans)),
                "learn/tokens_per_second": sums.num_tokens / seconds,
                "learn/num_skipped_updates": float(sums.num_skipped),
                **self._optional(sums),
            },
        )

    def _optional(self, sums: StepSums) -> dict[str, float]:
        """Metrics of what the configuration turns on."""
        section = self.config.learner
        shown = {}
        if section.importance.mode != "off":
            shown |= {"learn/importance_mean": sums.mean("importance"), "learn/masked_share": sums.mean("masked")}
        if section.covariance.mode != "off":
            shown["learn/held_share"] = sums.mean("held")
        if section.kl.target is not None or self.factors.kl != 1.0:
            shown["learn/kl_coefficient"] = sums.kl_coefficient
        if ALGORITHMS[section.algorithm.name].target.needs_critic:
            shown |= {
                "learn/value_loss": sums.mean("value_loss"),
                "learn/value_clipped_share": sums.mean("value_clipped"),
            }
        return shown

    def publish(self, version: int, incarnation: int, of: WeightsOf = "policy") -> WeightManifest:
        """Snapshot the current weights as `version`; from now on it can be sent, until newer ones replace it."""
        manifest = self._all("publish", version, incarnation, of, phase="publish", timeout=self._sync_seconds)[0]
        if of == "policy":
            self._version = version
        return manifest

    def checksums(self, version: int, of: WeightsOf = "policy") -> dict[str, str]:
        """blake2b-64 of every tensor of a published version, by name."""
        merged: dict[str, str] = {}
        for part in self._all("checksums", version, of, phase="checksums", timeout=self._sync_seconds, lane="transfer"):
            merged.update(part)
        return merged

    def open_transfer(self, backend: str, epoch: int, world_size: int, port: int = 0) -> tuple[str, int]:
        """Open a membership epoch on rank 0; returns the address that receivers join, before anyone joined."""
        call = (backend, epoch, world_size, port)
        return self._one(0, "open_transfer", *call, timeout=self._sync_seconds, lane="transfer")

    def join_transfer(self, init: TransferInit) -> Any:
        """Let rank 0 join the epoch. Returns a reference that is done once every receiver has joined."""
        return self.actors[0].join_transfer.options(concurrency_group="join").remote(init)

    def close_transfer(self, epoch: int) -> None:
        """Leave an epoch that is no longer used."""
        self._one(0, "close_transfer", epoch, timeout=self._sync_seconds, lane="transfer")

    def send(self, version: int, epoch: int, timeout_seconds: float, of: WeightsOf = "policy") -> list[Any]:
        """Broadcast a published version to an epoch. Returns one reference per rank; wait for all of them.

        Each raises the same WeightSyncError when it could not be sent; no rank is left waiting.
        """
        return [
            actor.send.options(concurrency_group="transfer").remote(version, epoch, timeout_seconds, of)
            for actor in self.actors
        ]

    def share_ipc(self, version: int) -> list[Mapping[str, Any]]:
        """CUDA IPC handles of a version's buckets by GPU, for samplers that share one; hold until `clear_ipc`."""
        return self._all("share_ipc", version, phase="share_ipc", timeout=self._sync_seconds, lane="transfer")[0]

    def clear_ipc(self) -> None:
        """Free what `share_ipc` staged, once every receipt has come back."""
        self._all("clear_ipc", phase="clear_ipc", timeout=self._sync_seconds, lane="transfer")

    def save(self, path: str, client_state: dict[str, Any]) -> Saving:
        """Write a checkpoint below `path`; blocks until the ranks may go on changing what they hold.

        Hashing and fsync go on beside training; `finish_save` moves it to PATH/learner.

        Raises:
            LearnerError, StorageError: it was not written; an older one at the same place is kept.
        """
        self._one(0, "clear_staging", path, timeout=self._save_seconds)
        description = self._all("save", path, client_state, phase="save", timeout=self._save_seconds)[0]
        return Saving(path, description, [self._call(actor, "hash_saved", "storage")(path) for actor in self.actors])

    def has_hashed(self, saving: Saving) -> bool:
        """Whether `finish_save` needs not wait for the ranks' hashes any more."""
        import ray

        return len(ray.wait(saving.hashes, num_returns=len(saving.hashes), timeout=0)[0]) == len(saving.hashes)

    def finish_save(self, saving: Saving) -> None:
        """Complete what `save` began.

        Raises:
            LearnerError, StorageError: it is not there; an older one at the same place is kept.
        """
        hashes: dict[str, str] = {}
        for part in self._collect(saving.hashes, "the hashing of a checkpoint", self._save_seconds):
            hashes.update(part)
        publish_checkpoint(Path(saving.path), hashes, saving.description)  # here: a rank may have died since it hashed

    def load(self, path: str) -> dict[str, Any]:
        """Continue from the checkpoint below `path`, right after `start`; returns its `client_state`.

        Raises:
            LearnerError: it is missing or damaged, or cannot be converted to these ranks and this ZeRO stage.
        """
        return self._all("load", path, phase="load", timeout=self._save_seconds)[0]

    def export(self, path: str) -> None:
        """Write the policy as a Hugging Face directory with its tokenizer, in the samplers' precision."""
        self._all("export", path, phase="export", timeout=self._save_seconds)

    def stop(self, timeout: float | None = None) -> None:
        """End all ranks: asked first, then killed. Returns once their processes are gone, or after `timeout`."""
        import ray

        deadline = time.monotonic() + (self.config.deadlines.stop_seconds if timeout is None else timeout)
        refs = [actor.stop.remote() for actor in self.actors]
        if refs:
            ray.wait(refs, num_returns=len(refs), timeout=max(0.0, (deadline - time.monotonic()) / 2))
        self.kill()
        local = self.config.cluster.address == "local"
        pids = [process["pid"] for process in self.processes] if local else []
        heeded = time.monotonic() + HEED_SECONDS
        while (left := [pid for pid in pids if _is_alive(pid)]) and time.monotonic() < deadline:
            if time.monotonic() > heeded:
                _kill(left)
            time.sleep(0.05)

    @property
    def _sync_seconds(self) -> float:
        return self.config.deadlines.sync_seconds

    @property
    def _save_seconds(self) -> float:
        return self.config.deadlines.save_seconds


def _references(batch: TrainingBatch, orders: StepOrders) -> dict[int, Any]:
    """References of the groups that a rank needs, by position in the batch."""
    import ray

    needed = {position: batch.groups[position] for position in needed_groups(orders)}
    return {i: group if isinstance(group, ray.ObjectRef) else ray.put(group) for i, group in needed.items()}


def _needs(options: Mapping[str, Any]) -> str:
    wanted = {"CPU": options.get("num_cpus", 0), "GPU": options.get("num_gpus", 0), **options.get("resources", {})}
    return ", ".join(f"{count:g} {name}" for name, count in wanted.items() if count) or "nothing"


def _kill(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
