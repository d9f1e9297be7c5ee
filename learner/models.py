"""The models of one rank under ZeRO: the policy, and beside it what the configuration needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from configs.schema import ModelSection, RunConfig
from learner.average import AverageModule
from learner.critic import ValueModel
from learner.forward import Forward
from learner.lora import WithoutAdapters, add_adapters
from learner.orders import needs_reference
from learner.policy import MAX_GPU_LOGITS, MAX_LOGITS, Policy, load_policy_model
from learner.registry import ALGORITHMS
from learner.relayout import load_any_layout
from learner.zero import FrozenModule, ZeroEngine, autocast_dtype, weights_dtype

if TYPE_CHECKING:
    import torch

CRITIC = "critic"
"""Directory of the critic's part in a checkpoint."""


@dataclass(frozen=True, slots=True)
class LearnerModels:
    """What a rank holds: engines, and how to call them."""

    model: nn.Module
    """Hugging Face model inside the policy."""
    engine: ZeroEngine
    policy: Forward
    reference: Forward | None = None
    """None where the KL is neither penalised nor measured."""
    average: AverageModule | None = None
    """None where nothing needs the policy's moving average."""
    critic_engine: ZeroEngine | None = None
    critic: Forward | None = None
    frozen: FrozenModule | None = None
    """Reference that is neither the policy without adapters nor its average."""

    @property
    def average_model(self) -> nn.Module:
        """Hugging Face model inside the average."""
        assert self.average is not None, "no moving average is kept"
        return self.average.module.model

    def close(self) -> None:
        """Let DeepSpeed go of all of them."""
        for part in (self.average, self.frozen, self.critic_engine, self.engine):
            if part is not None:
                part.close()

    def follow(self) -> None:
        """After each step: let the average follow the policy."""
        if self.average is not None:
            self.average.follow()

    def save(self, directory: Path, client_state: dict[str, Any]) -> None:
        """Write this rank's part of a checkpoint. A collective."""
        self.engine.save(directory, client_state)
        if self.average is not None:
            self.average.save(directory)
        if self.critic_engine is not None:
            self.critic_engine.save(directory / CRITIC, {})

    def load(self, directory: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Continue from what `save` wrote, under these ranks and stage or others; returns its `client_state`. A
        collective.

        Raises:
            LearnerError: a part is missing.
        """
        state = load_any_layout(self.engine, directory, manifest)
        if self.average is not None:
            self.average.load(directory)
        if self.critic_engine is not None:
            load_any_layout(self.critic_engine, directory / CRITIC, manifest)
        return state


class _Loader:
    """Loads models as a run's configuration says."""

    def __init__(self, config: RunConfig, device: str) -> None:
        self.config, self.section, self.device = config, config.learner, device

    def policy(
        self,
        model: ModelSection,
        *,
        is_trained: bool = False,
        has_adapters: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Policy:
        section = self.section
        use_reentrant = section.zero_stage == 3
        loaded = load_policy_model(
            model,
            dtype or weights_dtype(section),
            gradient_checkpointing=is_trained and section.gradient_checkpointing,
            use_reentrant=use_reentrant,
        )
        if has_adapters and section.lora.rank:
            add_adapters(loaded, section.lora)
        return self.wrapped(loaded)

    def wrapped(self, model: nn.Module) -> Policy:
        return Policy(
            model,
            temperature=self.config.rollout.temperature,
            autocast=autocast_dtype(self.section),
            use_reentrant=self.section.zero_stage == 3,
            max_logits=MAX_GPU_LOGITS if self.device == "cuda" else MAX_LOGITS,
        )

    def model_at(self, path: str | None) -> ModelSection:
        """Another model than the run's own, which None stands for."""
        own = self.config.model
        return own if path is None else ModelSection(path=path, trust_remote_code=own.trust_remote_code)


def build_models(
    config: RunConfig, device: str, *, keeps_average: bool, report: Callable[[str], None] = lambda phase: None
) -> LearnerModels:
    """Load all models of a rank and put them under ZeRO. A collective.

    Args:
        config: the run's configuration.
        device: "cpu" or "cuda".
        keeps_average: whether a moving average is wanted although the KL does not need it.
        report: is told what is made next: the policy is what came before.

    Raises:
        DataError: a model cannot be loaded.
    """
    import torch

    load, section = _Loader(config, device), config.learner
    policy = load.policy(config.model, is_trained=True, has_adapters=True)
    engine = ZeroEngine(policy, section, device)
    on = engine.device
    average, reference, critic_engine, critic, frozen = None, None, None, None, None
    is_average = needs_reference(section.kl) and section.kl.reference == "average"
    if keeps_average or is_average:
        shadow = load.policy(config.model, has_adapters=True, dtype=torch.float32)
        average = AverageModule(shadow, policy, engine, section, device)
        reference = Forward(average, shadow, on) if is_average else None
    if needs_reference(section.kl) and reference is None:
        report("reference")
        is_base = section.kl.reference == "base"
        if is_base and section.lora.rank:
            reference = Forward(WithoutAdapters(engine, policy.model), policy, on)
        else:
            body = load.policy(load.model_at(None if is_base else section.kl.reference))
            frozen = FrozenModule(body, section, device)
            reference = Forward(frozen, body, on)
    if ALGORITHMS[section.algorithm.name].target.needs_critic:
        report("critic")
        body = load.policy(load.model_at(section.critic.model), is_trained=True)
        critic_engine = ZeroEngine(ValueModel(body), section, device)
        critic = Forward(critic_engine, body, on)
    forward = Forward(engine, policy, on)
    return LearnerModels(policy.model, engine, forward, reference, average, critic_engine, critic, frozen)
