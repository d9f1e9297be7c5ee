"""The learner's part of the configuration: the objective, ZeRO, and what they share.

Advantage estimators and policy losses are plug-ins with options of their own; what every one of them needs stands here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from configs.sections import NonNegativeFloat, NonNegativeInt, Plugin, PositiveFloat, PositiveInt, Section


class KLSection(Section):
    """KL penalty towards a reference model. Coefficient 0 loads no reference unless told to."""

    coefficient: NonNegativeFloat = 0.0
    """Weight of the penalty; SRT's paper uses 0.001."""
    place: Literal["reward", "loss"] = "reward"
    """reward: each completion's summed KL lowers its reward, as in SRT; loss: a term of its own, as in GRPO."""
    estimator: Literal["k1", "k2", "k3"] = "k3"
    """Per-token estimator (Schulman): k3 = exp(d) - d - 1 with d = ref - policy, clamped to [-10, 10]. In the loss use
    k2 or k3: the gradient of k1 = -d is 0 in the mean."""
    reference: str = "base"
    """base: the model that training began with; average: the policy's moving average (learner.average_decay); otherwise
    the Hugging Face directory or hub name of another model with the same vocabulary, an exported checkpoint say."""
    target: PositiveFloat | None = None
    """Nats per token that an adaptive coefficient steers for (arXiv 1909.08593); None keeps the coefficient fixed."""
    horizon: PositiveInt = 10000
    """Completions over which an adaptive coefficient answers to the target."""
    measure: bool = False
    """Load the reference to log the KL to it although the coefficient is 0: costs its memory and a forward pass."""


class ImportanceSection(Section):
    """Weights that correct for samplers whose log-probabilities differ from the learner's (other kernels).

    A token's weight is learner / sampler probability before the update.
    """

    mode: Literal["off", "truncate", "mask"] = "off"
    """truncate: weights above `high` become `high` (TIS); mask: tokens outside [low, high] are not trained on."""
    level: Literal["token", "sequence"] = "token"
    """sequence: one weight per completion, the product over its tokens."""
    low: NonNegativeFloat = 0.0
    """Below it `mask` leaves tokens out."""
    high: PositiveFloat = 2.0
    """Largest weight."""


class CovarianceSection(Section):
    """Entropy kept up by holding back the tokens whose log-probability and advantage rise together most
    (arXiv 2505.22617)."""

    mode: Literal["off", "clip", "kl"] = "off"
    """clip (Clip-Cov): those tokens get no gradient; kl (KL-Cov): their distance to the old policy is penalised."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.0002
    """Share of the update's tokens that is held back."""
    low: float = 1.0
    """clip draws among tokens whose covariance is at least this."""
    high: float = 5.0
    """clip draws among tokens whose covariance is at most this."""
    coefficient: PositiveFloat = 1.0
    """kl: weight of |logprobs - old_logprobs| on the chosen tokens."""


class OverlongSection(Section):
    """Completions cut at rollout.max_completion_tokens, or close to it (DAPO, arXiv 2503.14476)."""

    mask: bool = False
    """Leave cut completions out of training."""
    penalty_tokens: NonNegativeInt = 0
    """The reward falls linearly over the last so many tokens before the limit, by `penalty` at it; 0 turns that off."""
    penalty: PositiveFloat = 1.0
    """Reward taken off at the limit."""


class CriticSection(Section):
    """The value model of algorithms that need one (ppo): the base model with a value head, under a ZeRO engine of its
    own."""

    learning_rate: NonNegativeFloat = 1e-5
    """Of the critic, with the policy's schedule."""
    clip: PositiveFloat | None = 0.2
    """Values move at most so far from the old ones before their loss is clipped; None: no clipping."""
    model: str | None = None
    """Hugging Face directory or hub name to start from; None takes the policy's."""


class LoraSection(Section):
    """Low-rank adapters (peft) instead of all weights. Samplers get them merged in, or alone: see `sync.lora`."""

    rank: NonNegativeInt = 0
    """Rank of the adapters; 0 trains all weights."""
    alpha: PositiveFloat = 32.0
    """Scale: the adapter counts alpha / rank."""
    target_modules: tuple[str, ...] = ()
    """Names of the linear layers that get one; empty: all but the output layer."""


class LearnerSection(Section):
    """ZeRO learner: how the policy is updated."""

    num_ranks: PositiveInt = 1
    """Ray actors in one process group."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    """DeepSpeed ZeRO stage."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """Keep in host memory: the optimizer's state (stages 1 to 3), or with `all` the parameters too (stage 3)."""
    sequence_parallel_size: PositiveInt = 1
    """Ranks that share each sequence (DeepSpeed-Ulysses); divides num_ranks and the model's attention heads."""
    algorithm: Plugin = Plugin(name="rloo")
    """Advantage estimator."""
    loss: Plugin = Plugin(name="ppo_clip")
    """Policy loss. With one update per step every ratio is exactly 1 and nothing is clipped."""
    aggregation: Literal["token_mean", "sequence_mean", "sequence_constant"] = "token_mean"
    """Mean of the token losses over an update: of all tokens; of each completion, then over completions; or their sum
    per completion over `aggregation_length`, then over completions (Dr. GRPO)."""
    aggregation_length: PositiveInt | None = None
    """Tokens that sequence_constant divides by; None takes rollout.max_completion_tokens."""
    updates_per_step: PositiveInt = 1
    """Optimizer calls on one step's groups, which are split evenly in group order (SRT: 1, TTRL: 8)."""
    epochs_per_step: PositiveInt = 1
    """Passes over the step's groups; divides updates_per_step."""
    old_logprobs: Literal["auto", "current", "rollout", "recompute"] = "auto"
    """What the ratio compares with: the current ones, detached (one update per step only: the ratio is 1, no pass is
    spent); the samplers'; or a pass before the first update. auto: current where it may be, else rollout."""
    importance: ImportanceSection = ImportanceSection()
    """Correction for the samplers' log-probabilities."""
    kl: KLSection = KLSection()
    """KL penalty."""
    average_decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """Share of the old average kept at each step where the policy's moving average is used (kept in float32)."""
    entropy_coefficient: float = 0.0
    """Weight of the mean token entropy in the objective; above 0 it speeds up collapse (arXiv 2505.21444)."""
    covariance: CovarianceSection = CovarianceSection()
    """KL-Cov and Clip-Cov."""
    overlong: OverlongSection = OverlongSection()
    """Completions that reach the limit."""
    critic: CriticSection = CriticSection()
    """Value model of ppo."""
    learning_rate: NonNegativeFloat = 1e-6
    """Peak of the schedule."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls after warm-up; linear and cosine reach `min_learning_rate` after decay_updates."""
    warmup_steps: NonNegativeInt = 0
    """Updates of linear warm-up."""
    decay_updates: PositiveInt | None = None
    """Updates, warm-up included, until the schedule has reached its end; linear and cosine need it."""
    min_learning_rate: NonNegativeFloat = 0.0
    """Where linear and cosine end."""
    weight_decay: NonNegativeFloat = 0.01
    """AdamW weight decay."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW betas."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradient clipping."""
    non_finite: Literal["stop", "skip"] = "stop"
    """A loss or gradient that is not finite on any rank ends the run, or skips the update on all of them."""
    max_restarts: NonNegativeInt = 3
    """How often one `quorum train` starts the ranks again from the last checkpoint after one died, failed, stalled or
    ran out of memory; 0 ends the run at the first time."""
    max_tokens_per_micro_batch: PositiveInt = 16384
    """Prompt and completion tokens packed into one forward pass; a longer sequence goes alone. A CPU takes at most 2048
    at once, which is faster there."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """bfloat16 keeps float32 master weights."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    lora: LoraSection = LoraSection()
    """Adapters."""

    @property
    def old_source(self) -> Literal["current", "rollout", "recompute"]:
        """`old_logprobs` with auto decided."""
        if self.old_logprobs != "auto":
            return self.old_logprobs
        return "current" if self.updates_per_step == 1 else "rollout"

    def problems(self, *, top_p: float) -> list[str]:
        """What contradicts what, in sentences that say what to do."""
        return [*self._objective_problems(), *self._ratio_problems(top_p), *self._layout_problems()]

    def _objective_problems(self) -> Iterator[str]:
        if self.updates_per_step % self.epochs_per_step:
            yield (
                f"learner.epochs_per_step {self.epochs_per_step} does not divide learner.updates_per_step "
                f"{self.updates_per_step}: each epoch takes as many updates"
            )
        if self.schedule != "constant" and (self.decay_updates or 0) <= self.warmup_steps:
            yield (
                f"learner.schedule={self.schedule} needs learner.decay_updates above learner.warmup_steps "
                f"({self.warmup_steps}): the updates until the learning rate has fallen"
            )
        if self.aggregation_length is not None and self.aggregation != "sequence_constant":
            yield (
                f"learner.aggregation_length {self.aggregation_length} counts under learner.aggregation="
                f"sequence_constant alone, and that is {self.aggregation}; leave one of them out"
            )
        if self.kl.reference != "base" and not (self.kl.coefficient or self.kl.measure):
            yield (
                f"learner.kl.reference={self.kl.reference} is not used: set learner.kl.coefficient above 0, or "
                "learner.kl.measure=true to log the KL to it"
            )
        if self.kl.target is not None and self.kl.coefficient == 0:
            yield "learner.kl.target adapts learner.kl.coefficient, which is 0 and would stay so: start above 0"

    def _ratio_problems(self, top_p: float) -> Iterator[str]:
        if self.old_logprobs == "current" and self.updates_per_step > 1:
            yield (
                f"learner.old_logprobs=current with {self.updates_per_step} updates per step: from the second one on "
                "the current ones are no longer those that sampled; use rollout or recompute"
            )
        if self.covariance.mode != "off" and self.old_source == "current":
            yield (
                "learner.covariance chooses tokens by their log-probabilities before the update; set "
                "learner.old_logprobs to recompute or rollout"
            )
        if self.covariance.mode == "kl" and self.updates_per_step == 1:
            yield (
                "learner.covariance.mode=kl penalises the distance to the old policy, which is 0 in the first "
                "update of a step and has no gradient there: set learner.updates_per_step above 1, or use mode=clip"
            )
        if self.importance.mode == "truncate" and self.importance.low:
            yield (
                f"learner.importance.low {self.importance.low:g} counts under mode=mask alone, and that is truncate; "
                "leave one of them out"
            )
        if top_p < 1 and (self.importance.mode != "off" or self.old_source == "rollout"):
            setting = "learner.importance.mode" if self.importance.mode != "off" else "learner.old_logprobs=rollout"
            yield (
                f"rollout.top_p {top_p:g} with {setting}: samplers then report log-probabilities of the cut and "
                "rescaled distribution, the learner knows the whole one, so their ratio is wrong by a different factor "
                "at each token; set rollout.top_p to 1, or learner.importance.mode=off with "
                "learner.old_logprobs=recompute"
            )
        if self.importance.mode != "off" and self.old_source == "rollout":
            yield (
                "learner.importance corrects old log-probabilities towards the samplers', but learner.old_logprobs is "
                "rollout: the ratio does that already; set learner.old_logprobs=recompute, or importance.mode=off"
            )
        if self.importance.low >= self.importance.high:
            yield f"learner.importance.low {self.importance.low:g} must be below high {self.importance.high:g}"

    def _layout_problems(self) -> Iterator[str]:
        if self.num_ranks % self.sequence_parallel_size:
            yield (
                f"learner.sequence_parallel_size {self.sequence_parallel_size} does not divide learner.num_ranks "
                f"{self.num_ranks}"
            )
        if self.offload == "all" and self.zero_stage != 3:
            yield f"learner.offload=all needs learner.zero_stage 3, got {self.zero_stage}; use optimizer"
        if self.offload == "optimizer" and self.zero_stage == 0:
            yield "learner.offload=optimizer needs learner.zero_stage 1 or more: at 0 nothing is partitioned"
