"""Samplers without models: fake engines, one per Ray actor while that fits, many in one actor behind the same handles
beyond. The pool that hands groups to them is the real one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs.rollout_sections import DispatchSection, RestartSection, RolloutSection
from configs.schema import DeadlineSection
from quorum.types import (
    GroupKey,
    GroupRequest,
    Prompt,
    Receipt,
    Role,
    RolloutGroup,
    SamplingSettings,
    group_seed,
    prompt_id_of,
)
from rollout.berths import ListedBerths
from rollout.engines.fake import FakeEngine
from rollout.engines.fake_options import FakeOptions
from rollout.handle import SamplerHandle, SamplerState
from rollout.pool import SamplerPool
from rollout.settings import SamplerProbe, SamplerSettings

PROMPT_TOKENS = 64
_START_SECONDS = 120.0


class SamplerHost:
    """A Ray actor of many simulated samplers, each an engine with a clock of its own.

    The sampler's number and a method's own arguments come as one: Ray pays for every argument of a call, and a real
    sampler needs no number.
    """

    def __init__(self, settings: Sequence[SamplerSettings]) -> None:
        self._settings = list(settings)
        self._engines = [FakeEngine(one, FakeOptions(**one.engine_options)) for one in settings]

    async def generate(self, call: tuple[int, GroupRequest]) -> tuple[Receipt, RolloutGroup]:
        """As `Sampler.generate`, of the sampler with this number here."""
        number, request = call
        began = time.perf_counter()
        group, num_prefilled = await self._engines[number].generate(request, request.required_version)
        seconds = time.perf_counter() - began
        name = self._settings[number].sampler_id
        return Receipt.of(group, sampler_id=name, num_prefilled_tokens=num_prefilled, seconds=seconds), group

    async def probe(self, call: tuple[int]) -> SamplerProbe:
        """As `Sampler.probe`."""
        probe = self._engines[call[0]].probe()
        return SamplerProbe(version=0, tokens_generated=probe.tokens_generated, num_running=probe.num_running)

    async def check(self, call: tuple[int, float]) -> None:
        """As `Sampler.check`."""
        number, seconds = call
        await self._engines[number].check(seconds)


@dataclass(frozen=True, slots=True)
class _Method:
    method: Any
    number: int

    def options(self, **options: Any) -> _Method:
        return _Method(self.method.options(**options), self.number)

    def remote(self, *arguments: Any) -> Any:
        return self.method.remote((self.number, *arguments))


class HostedSampler:
    """What stands for the handle of a sampler's actor: its calls go to the host, with the sampler's number."""

    def __init__(self, host: Any, number: int) -> None:
        self.generate = _Method(host.generate, number)
        self.probe = _Method(host.probe, number)
        self.check = _Method(host.check, number)


def sampler_settings(names: Sequence[str], options: Mapping[str, Any]) -> list[SamplerSettings]:
    """Settings of simulated samplers with the same engine options."""
    return [
        SamplerSettings(sampler_id=name, model="none", max_model_len=4096, engine="fake", engine_options=options)
        for name in names
    ]


def rollout_section(groups_at_once: int, k: int) -> RolloutSection:
    """So many groups of k completions on each sampler at a time; none is replaced."""
    return RolloutSection(
        completions_per_prompt=k,
        dispatch=DispatchSection(max_completions_per_sampler=groups_at_once * k),
        restart=RestartSection(max_restarts=0),
    )


@contextmanager
def local_ray(num_cpus: int = 2) -> Iterator[None]:
    """A Ray of its own on this machine, stopped in the end."""
    import ray

    ray.init(
        address="local",
        _node_ip_address="127.0.0.1",
        num_cpus=num_cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=1 << 28,
    )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def real_pool(settings: Sequence[SamplerSettings], section: RolloutSection) -> Iterator[SamplerPool]:
    """A pool of real sampler actors, one per engine."""
    options = [{"num_cpus": 0}] * len(settings)
    pool = SamplerPool.start(settings, deadlines=DeadlineSection(), actor_options=options, section=section)
    try:
        yield pool
    finally:
        pool.stop(5.0)


@contextmanager
def hosted_pool(
    settings: Sequence[SamplerSettings], section: RolloutSection, num_hosts: int = 2
) -> Iterator[SamplerPool]:
    """A pool of simulated samplers that share `num_hosts` actors. They are never lost, added or sent away."""
    import ray

    remote = ray.remote(SamplerHost).options(num_cpus=0, max_concurrency=10_000, max_restarts=0)
    hosts = [remote.remote(settings[i::num_hosts]) for i in range(num_hosts)]
    try:
        ray.get([host.__ray_ready__.remote() for host in hosts], timeout=_START_SECONDS)
        pool = SamplerPool(ListedBerths([], []), section, DeadlineSection())
        for slot, one in enumerate(settings):
            actor = HostedSampler(hosts[slot % num_hosts], slot // num_hosts)
            sampler = SamplerHandle(slot, one, actor, state=SamplerState.STALE)
            pool.roster.samplers.append(sampler)
            pool.mark_ready(sampler, one.initial_version)
        yield pool
    finally:
        for host in hosts:
            host.__ray_terminate__.remote()


def make_request(group_id: int, k: int, seed: int, max_tokens: int = 1024) -> GroupRequest:
    """A training group with a prompt of PROMPT_TOKENS tokens."""
    key = GroupKey(0, Role.TRAIN, group_id)
    tokens = np.full(PROMPT_TOKENS, 3, dtype=np.int32)
    prompt = Prompt(
        prompt_id=prompt_id_of("simulated", str(group_id)), data_source="simulated", token_ids=tokens, text="?" * 64
    )
    return GroupRequest(
        key=key,
        prompt=prompt,
        sampling=SamplingSettings(num_completions=k, temperature=1.0, top_p=1.0, max_completion_tokens=max_tokens),
        seed=group_seed(seed, key),
        required_version=0,
    )
