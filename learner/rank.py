"""One learner rank: a Ray actor that holds a share of the policy under ZeRO.

Three lanes of calls run side by side: the training lane (start, update, publish, save, load, export), the
transfer lane (open, join, send) and the probe lane (progress), so that a probe answers during an update and a
joining sampler is served while the next update computes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from configs.schema import RunConfig
from learner.transfer_lane import TransferLane
from quorum.types import ScoredGroup

if TYPE_CHECKING:
    from learner.orders import UpdateOrders, UpdateSums

LANES = {"transfer": 1, "probe": 1}
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
        from learner.zero import listen, store_over

        host = self.host()
        listener, port = listen(host)
        timeout = timedelta(seconds=self.settings.config.deadlines.start_seconds)
        self._store = store_over(listener, host, self.settings.world_size, timeout)
        return host, port

    def start(self, host: str, port: int) -> None:
        """Meet the other ranks, load the model and put it under ZeRO. A collective.

        Raises:
            DataError: the model cannot be loaded.
        """
        self._report("importing")
        import torch
        import torch.distributed as dist

        from learner.zero import start_process_group

        settings, deadlines = self.settings, self.settings.config.deadlines
        torch.set_num_threads(settings.config.cluster.cpus_per_rank)
        torch.manual_seed(settings.config.run.seed)
        if settings.device == "cuda":
            torch.cuda.set_device(0)
        self._report("rendezvous")
        if settings.rank > 0:
            timeout = timedelta(seconds=deadlines.start_seconds)
            self._store = dist.TCPStore(host, port, settings.world_size, is_master=False, timeout=timeout)
        collective = timedelta(seconds=max(deadlines.learn_seconds, deadlines.start_seconds))
        start_process_group(self._store, settings.rank, settings.world_size, settings.device, collective)
        self._report("loading")
        self._build()
        self._open_lane()
        self._report("ready")

    def _build(self) -> None:
        from configs.load import import_plugins
        from learner.orders import needs_base_model
        from learner.policy import Policy, load_policy_model
        from learner.update import Updater
        from learner.zero import FrozenModule, ZeroEngine, autocast_dtype, weights_dtype

        config, device = self.settings.config, self.settings.device
        import_plugins(config.run.plugins)
        section = config.learner
        use_reentrant = section.zero_stage == 3
        wrap = {
            "temperature": config.rollout.temperature,
            "autocast": autocast_dtype(section),
            "use_reentrant": use_reentrant,
        }
        self._model = load_policy_model(
            config.model,
            weights_dtype(section),
            gradient_checkpointing=section.gradient_checkpointing,
            use_reentrant=use_reentrant,
        )
        policy = Policy(self._model, **wrap)
        self._engine = ZeroEngine(policy, section, device)
        base = None
        if needs_base_model(section.kl):
            base_model = load_policy_model(config.model, weights_dtype(section))
            base = FrozenModule(Policy(base_model, **wrap), section, device)
        self._updater = Updater(policy, self._engine, base, section, self._report)

    def update(self, orders: UpdateOrders) -> tuple[UpdateSums, float]:
        """Fetch this rank's groups and take one optimizer step on them. A collective; see `step`."""
        import ray

        self._report("fetching")
        positions, refs = list(orders.groups), list(orders.groups.values())
        groups = ray.get(refs, timeout=self.settings.config.deadlines.learn_seconds)
        return self.step(orders, dict(zip(positions, groups, strict=True)))

    def step(self, orders: UpdateOrders, groups: Mapping[int, ScoredGroup]) -> tuple[UpdateSums, float]:
        """Take one optimizer step. A collective.

        Args:
            orders: this rank's micro-batches.
            groups: the scored groups in them, by position in the batch.

        Returns:
            Global sums, and the learning rate used.

        Raises:
            NonFiniteLoss: on every rank; the optimizer was not stepped.
        """
        section = self.settings.config.learner
        warm = min(1.0, (self._num_updates + 1) / section.warmup_steps) if section.warmup_steps else 1.0
        learning_rate = section.learning_rate * warm
        sums = self._updater.run(orders, groups, learning_rate)
        self._num_updates += 1
        return sums, learning_rate

    def clear_staging(self, path: str) -> None:
        """One rank, before `save`: start from an empty directory."""
        from learner.checkpoint import clear_staging

        clear_staging(Path(path))

    def save(self, path: str, client_state: dict[str, Any]) -> dict[str, str]:
        """Write this rank's part of a checkpoint and hash its share of the files. A collective."""
        import torch
        import torch.distributed as dist

        from learner.checkpoint import hash_share, staging_directory, writing

        staged = staging_directory(Path(path))
        state = {"client_state": client_state, "num_updates": self._num_updates}
        with writing(staged):
            self._engine.save(staged, state)
            torch.save(torch.get_rng_state(), staged / f"rng_{self.settings.rank}.pt")
            dist.barrier()
            hashes = hash_share(staged, self.settings.rank, self.settings.world_size)
        self._report("saved")
        return hashes

    def publish_checkpoint(self, path: str, hashes: dict[str, str]) -> None:
        """One rank, after `save`: write the manifest and move the checkpoint to its place."""
        from learner.checkpoint import publish_checkpoint

        section = self.settings.config.learner
        description = {
            "format": 1,
            "num_ranks": self.settings.world_size,
            "zero_stage": section.zero_stage,
            "precision": section.precision,
            "num_updates": self._num_updates,
        }
        publish_checkpoint(Path(path), hashes, description)

    def load(self, path: str) -> dict[str, Any]:
        """Continue from a checkpoint, verified against its hashes. A collective, in a fresh rank.

        Returns:
            The `client_state` that was saved.

        Raises:
            LearnerError: missing, damaged, or of other ranks or another stage.
        """
        import torch

        from learner.checkpoint import DIRECTORY, check_layout, read_manifest, verify_share

        settings = self.settings
        manifest = read_manifest(Path(path))
        check_layout(manifest, settings.world_size, settings.config.learner.zero_stage)
        verify_share(Path(path), manifest, settings.rank, settings.world_size)
        state = self._engine.load(Path(path) / DIRECTORY)
        torch.set_rng_state(torch.load(Path(path) / DIRECTORY / f"rng_{settings.rank}.pt", weights_only=True))
        self._num_updates = state["num_updates"]
        self._report("loaded")
        return dict(state["client_state"])

    def export(self, path: str) -> None:
        """Write the policy as a Hugging Face directory. A collective; rank 0 writes."""
        import torch

        from learner.export import collect_state, write_model

        config = self.settings.config
        dtype = getattr(torch, config.rollout.dtype)
        state = collect_state(self._model, self._engine, dtype, keep=self.settings.rank == 0)
        if self.settings.rank == 0:
            write_model(self._model, state, config.model, dtype, Path(path))
        self._report("exported")

    def stop(self) -> None:
        """Leave all groups."""
        from learner.zero import stop_process_group

        for epoch in list(self._senders):
            self.close_transfer(epoch)
        stop_process_group()
