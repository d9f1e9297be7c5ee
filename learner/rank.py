"""One learner rank: a Ray actor that holds a share of the policy under ZeRO.

Five lanes of calls run side by side: the training lane (start, update, publish, save, load, export), the
transfer lane (open, send), the join lane, so that a sampler that dies joining holds up no transfer, the storage lane
(hash, publish a checkpoint) and the probe lane (progress), so that a probe answers during an update, and a joining
sampler is served and a written checkpoint is hashed while the next update computes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from configs.schema import RunConfig
from learner.batch import micro_batch_tokens
from learner.phase_times import PhaseTimes
from learner.transfer_lane import TransferLane
from quorum.types import GroupScores, ScoredGroup

if TYPE_CHECKING:
    from learner.orders import StepOrders, StepSums

LANES = {"transfer": 1, "join": 2, "probe": 1, "storage": 1}
"""Concurrency groups of the actor beside the training lane, and their threads."""


@dataclass(frozen=True, slots=True)
class RankSettings:
    """What a rank is told at birth."""

    config: RunConfig
    rank: int
    world_size: int
    device: str
    """"cpu" or "cuda"."""
    on_loopback: bool
    """Whether all ranks are on this machine: then every socket is bound to 127.0.0.1."""
    keeps_average: bool = False
    """Whether a moving average of the policy is kept although the KL does not need it."""


class Progress(NamedTuple):
    """What a rank is doing. `count` grows with every finished micro-batch."""

    count: int
    phase: str


class Rank(TransferLane):
    """The actor. Collective methods are called on all ranks at once by `learner.group`."""

    def __init__(self, settings: RankSettings) -> None:
        self.settings = settings
        self._progress = Progress(0, "created")
        self._num_updates = 0
        self._senders: dict[int, Any] = {}
        self._prepare_environment()

    def _prepare_environment(self) -> None:
        """Before torch is imported: threads, ranks and the interface that Gloo uses. torch.compile is turned off."""
        settings = self.settings
        threads = str(settings.config.cluster.cpus_per_rank)
        os.environ.update(
            OMP_NUM_THREADS=threads,
            RANK=str(settings.rank),
            WORLD_SIZE=str(settings.world_size),
            LOCAL_RANK="0",
            DS_ACCELERATOR=settings.device,
            TOKENIZERS_PARALLELISM="false",
            TORCHDYNAMO_DISABLE="1",  # nothing is compiled; importing the compiler alone takes seconds
        )
        if settings.on_loopback:
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"

    def describe(self) -> dict[str, Any]:
        """Process id and node address; answers as soon as the actor is placed."""
        return {"pid": os.getpid(), "host": self.host()}

    def progress(self) -> Progress:
        """Probe lane: what this rank is doing."""
        return self._progress

    def _report(self, phase: str) -> None:
        self._progress = Progress(self._progress.count + 1, phase)

    def open_rendezvous(self) -> tuple[str, int]:
        """Rank 0: serve the store at which all ranks meet."""
        from learner.rendezvous import listen, store_over

        host = self.host()
        listener, port = listen(host)
        timeout = timedelta(seconds=self.settings.config.deadlines.start_seconds)
        self._store = store_over(listener, host, self.settings.world_size, timeout)
        return host, port

    def start(self, host: str, port: int) -> dict[str, float]:
        """Meet the other ranks, load the model and put it under ZeRO. A collective.

        Returns:
            Seconds by what was done, in order.

        Raises:
            DataError: the model cannot be loaded.
        """
        report = PhaseTimes(self._report)
        report("importing")
        import torch
        import torch.distributed as dist

        from learner.sequence_parallel import set_up
        from learner.zero import start_process_group

        settings, deadlines = self.settings, self.settings.config.deadlines
        torch.set_num_threads(settings.config.cluster.cpus_per_rank)
        torch.manual_seed(settings.config.run.seed)
        if settings.device == "cuda":
            torch.cuda.set_device(0)
        report("rendezvous")
        if settings.rank > 0:
            timeout = timedelta(seconds=deadlines.start_seconds)
            self._store = dist.TCPStore(host, port, settings.world_size, is_master=False, timeout=timeout)
        collective = timedelta(seconds=max(deadlines.learn_seconds, deadlines.start_seconds))
        start_process_group(self._store, settings.rank, settings.world_size, settings.device, collective)
        set_up(settings.config.learner.sequence_parallel_size, collective)
        report("loading")
        self._build(report)
        self._open_lane()
        report("ready")
        return report.seconds()

    def may_share(self) -> bool:
        """Whether the policy can compute a prompt once for several completions. A collective."""
        return self._models.policy.may_share()

    def rebuild(self, settings: RankSettings) -> dict[str, float]:
        """Be a fresh rank of another configuration, in the same process and process group. A collective.

        Models, optimizer and settings are made anew from the base; no snapshot, epoch or count is left.

        Args:
            settings: with this rank's number, and `cluster`, `deadlines`, ranks and ZeRO stage as they were.

        Returns:
            See `start`.

        Raises:
            DataError: the model cannot be loaded.
        """
        import gc

        import torch

        report = PhaseTimes(self._report)
        report("forgetting")
        self._empty_lane()
        self._models.close()
        del self._models, self._model, self._engine, self._updater
        gc.collect()
        if self.settings.device == "cuda":
            torch.cuda.empty_cache()
        self.settings, self._num_updates = settings, 0
        torch.manual_seed(settings.config.run.seed)
        report("loading")
        self._build(report)
        report("ready")
        return report.seconds()

    def _build(self, report: PhaseTimes) -> None:
        from configs.load import import_plugins
        from learner.models import build_models
        from learner.update import Updater

        config = self.settings.config
        import_plugins(config.run.plugins)
        self._models = build_models(
            config, self.settings.device, keeps_average=self.settings.keeps_average, report=report
        )
        self._model, self._engine = self._models.model, self._models.engine
        self._updater = Updater(
            self._models,
            config.learner,
            self._report,
            max_completion_tokens=config.rollout.max_completion_tokens,
            seed=config.run.seed,
        )

    def update(self, orders: StepOrders) -> StepSums:
        """Fetch this rank's groups and take the step's updates on them. A collective; see `step`."""
        import ray

        self._report("fetching")
        positions, refs = list(orders.groups), list(orders.groups.values())
        groups = ray.get(refs, timeout=self.settings.config.deadlines.learn_seconds)
        return self.step(orders, dict(zip(positions, groups, strict=True)))

    def step(self, orders: StepOrders, groups: Mapping[int, ScoredGroup]) -> StepSums:
        """Take the step's updates. A collective.

        Args:
            orders: this rank's micro-batches.
            groups: the scored groups in them, by position in the batch.

        Returns:
            Global sums.

        Raises:
            NonFiniteLoss: on every rank; the optimizer was not stepped.
            LearnerOutOfMemory: on a rank where it did not fit.
        """
        from learner.memory import out_of_memory_named

        with out_of_memory_named(self.settings.rank, f"the update of step {orders.step}"):
            sums = self._updater.run(orders, groups, self._learning_rates)
            if sums.num_updates:
                self._models.follow()
        self._num_updates += sums.num_updates
        self._yield_device()
        return sums

    def _yield_device(self) -> None:
        """Give memory that torch only caches back to a GPU that a sampler, which sleeps now, shares."""
        if self.settings.device == "cuda" and self.settings.config.cluster.colocate:
            import torch

            torch.cuda.empty_cache()

    def _learning_rates(self, updates_of_this_step: int) -> tuple[float, float]:
        """Of policy and critic."""
        from learner.schedule import learning_rate

        section = self.settings.config.learner
        critic = section.model_copy(update={"learning_rate": section.critic.learning_rate})
        update = self._num_updates + updates_of_this_step
        return learning_rate(section, update), learning_rate(critic, update)

    def score(self, groups: Sequence[Any]) -> list[GroupScores]:
        """Score this rank's part of finished groups, given as references. A collective; see `learner.scoring`."""
        import ray

        from learner.memory import out_of_memory_named
        from learner.scoring import score_groups

        config = self.settings.config
        fetched = ray.get(list(groups), timeout=config.deadlines.learn_seconds)
        limit = micro_batch_tokens(config.learner, self.settings.device)
        with out_of_memory_named(self.settings.rank, "the scores of the groups"):
            return score_groups(self._models.policy, fetched, limit, self._engine.device, self._report)

    def clear_staging(self, path: str) -> None:
        """One rank, before `save`: start from an empty directory."""
        from learner.checkpoint import clear_staging

        clear_staging(Path(path))

    def save(self, path: str, client_state: dict[str, Any]) -> dict[str, Any]:
        """Write this rank's part of a checkpoint into the staging directory. A collective.

        Returns:
            What the checkpoint's manifest says of it, besides the files.

        Raises:
            StorageError: the disk refused.
        """
        import torch

        from learner.checkpoint import staging_directory, writing

        staged = staging_directory(Path(path))
        state = {
            "client_state": client_state,
            "num_updates": self._num_updates,
            "kl_coefficient": self._updater.kl_coefficient.value,
        }
        with writing(staged):
            self._models.save(staged, state)
            torch.save(torch.get_rng_state(), staged / f"rng_{self.settings.rank}.pt")
        self._report("saved")
        section = self.settings.config.learner
        return {
            "format": 1,
            "num_ranks": self.settings.world_size,
            "zero_stage": section.zero_stage,
            "precision": section.precision,
            "num_updates": self._num_updates,
        }

    def hash_saved(self, path: str) -> dict[str, str]:
        """Storage lane, after every rank's `save`: hash and fsync this rank's share of the files."""
        from learner.checkpoint import hash_share, staging_directory, writing

        staged = staging_directory(Path(path))
        with writing(staged):
            return hash_share(staged, self.settings.rank, self.settings.world_size)

    def load(self, path: str) -> dict[str, Any]:
        """Continue from a checkpoint, verified against its hashes, also of other ranks or another ZeRO stage.

        A collective, in a fresh rank. Bits are those of the unbroken run only if ranks and stage are.

        Returns:
            The `client_state` that was saved.

        Raises:
            LearnerError: missing, damaged, or not to be converted to these ranks and this stage.
        """
        import torch

        from learner.checkpoint import DIRECTORY, read_manifest, verify_share

        settings, directory = self.settings, Path(path) / DIRECTORY
        manifest = read_manifest(Path(path))
        verify_share(Path(path), manifest, settings.rank, settings.world_size)
        state = self._models.load(directory, manifest)
        generator = directory / f"rng_{settings.rank}.pt"
        if generator.is_file():
            torch.set_rng_state(torch.load(generator, weights_only=True))
        self._num_updates = state["num_updates"]
        self._updater.kl_coefficient.value = state.get("kl_coefficient", self.settings.config.learner.kl.coefficient)
        self._report("loaded")
        return dict(state["client_state"])

    def export(self, path: str) -> None:
        """Write the policy as a Hugging Face directory, adapters merged and once more alone. A collective; rank 0
        writes."""
        import torch

        from learner.export import collect_state, write_model
        from learner.lora import collect_adapter

        config = self.settings.config
        dtype = getattr(torch, config.rollout.dtype)
        keep = self.settings.rank == 0
        state = collect_state(self._model, self._engine, dtype, keep=keep)
        adapter = collect_adapter(self._model, self._engine, dtype, keep=keep)
        if keep:
            write_model(self._model, state, config.model, dtype, Path(path), adapter)
        self._report("exported")

    def stop(self) -> None:
        """Leave all groups."""
        from learner.zero import stop_process_group

        for epoch in list(self._senders):
            self.close_transfer(epoch)
        stop_process_group()
