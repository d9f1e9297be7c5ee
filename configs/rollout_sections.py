"""The configuration of the samplers: what is drawn, on how many of them, how far ahead of the learner."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from configs.sections import NonNegativeFloat, NonNegativeInt, Plugin, PositiveFloat, PositiveInt, Section


class DispatchSection(Section):
    """Which sampler draws what, and when. None of it changes a token."""

    max_completions_per_sampler: PositiveInt = 1024
    """Completions handed to one sampler at a time; more wait in the driver, for whoever is free first."""
    order: Literal["admitted", "longest_first"] = "admitted"
    """longest_first: within a step, prompts whose earlier completions were long go first."""
    split_groups: Literal["never", "tail"] = "never"
    """tail: when samplers would idle, a group's completions are shared out among them, prefix computed on each."""


class RestartSection(Section):
    """Samplers that died or hang are replaced."""

    max_restarts: NonNegativeInt = 100
    """Replacements within one hour, over all samplers; after that a sampler that dies stays dead."""
    backoff_seconds: NonNegativeFloat = 1.0
    """Before a sampler's second replacement in a row that did no work; doubles each time."""
    max_backoff_seconds: PositiveFloat = 60.0
    """Longest back-off."""


class AutoscaleSection(Section):
    """The number of samplers follows the measured waits of learner and samplers."""

    min_samplers: PositiveInt = 1
    """Never fewer."""
    max_samplers: PositiveInt
    """Never more."""
    target_wait_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of a step that the learner may wait for samplers. Above it samplers are added; they are removed when the
    samplers idle for more than this share and the learner waits for less than half of it."""
    interval_steps: PositiveInt = 2
    """Steps whose waits are averaged before the number changes again."""
    step_samplers: PositiveInt = 1
    """Samplers added or removed at a time."""


class FleetSection(Section):
    """Samplers of one kind, where not all are alike."""

    num_samplers: PositiveInt
    """How many of this kind."""
    tensor_parallel_size: PositiveInt = 1
    """Workers of each."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the run's."""


class RolloutSection(Section):
    """Samplers: how completions are drawn."""

    engine: Plugin = Plugin(name="vllm")
    """vllm, or fake for tests without an engine. Options of vllm are any further engine arguments."""
    num_samplers: PositiveInt = 1
    """Ray actors, each hosting one engine. `quorum scale` changes it in a live run."""
    min_samplers: PositiveInt = 1
    """With fewer samplers alive and no replacement to come the run saves a checkpoint and ends."""
    tensor_parallel_size: PositiveInt = 1
    """Workers per sampler."""
    fleet: tuple[FleetSection, ...] = ()
    """Samplers of several kinds; empty: num_samplers of tensor_parallel_size workers."""
    prompts_per_step: PositiveInt = 16
    """Groups per step (P)."""
    completions_per_prompt: PositiveInt = 16
    """Completions per group (k)."""
    max_off_policy_steps: NonNegativeInt = 0
    """Steps that a trained token may be older than the policy it trains. 0: generate, vote, learn, broadcast in turn.
    1 or more: samplers go on while the learner works, and new weights are swapped in under running completions."""
    carried_groups: NonNegativeInt = 0
    """Slow groups that a step may leave to a later one: it takes those that finished first, and samplers draw the rest
    on under newer weights, never beyond max_off_policy_steps. So many slots fewer are in use. Gives up
    reproducibility; 0 keeps the order of admission."""
    stop_decided: bool = False
    """Completions that vote and are not trained on (voting.train.num_completions) stop once the winner is certain;
    agreement is then a lower bound."""
    max_completion_tokens: PositiveInt = 1024
    """Completions are cut here."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling; 1 turns it off. Below 1 sampler and learner differ in logprobs: the learner knows no top-p."""
    stop: tuple[str, ...] = ()
    """Stop strings besides the end-of-text token."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Precision of the samplers."""
    max_model_len: PositiveInt | None = None
    """Context of the engine; None takes max_prompt_tokens + max_completion_tokens."""
    dispatch: DispatchSection = DispatchSection()
    """How groups are handed to samplers."""
    restart: RestartSection = RestartSection()
    """How lost samplers are replaced."""
    autoscale: AutoscaleSection | None = None
    """None keeps the number of samplers until `quorum scale` changes it."""

    @property
    def num_started(self) -> int:
        """Samplers at the start."""
        return sum(kind.num_samplers for kind in self.fleet) if self.fleet else self.num_samplers

    def problems(self) -> list[str]:
        """What does not fit together, in a line each."""
        problems = []
        most = self.max_off_policy_steps * self.prompts_per_step - 1
        if self.carried_groups > max(0, most):
            problems.append(
                f"rollout.carried_groups {self.carried_groups}: with max_off_policy_steps {self.max_off_policy_steps} "
                f"and prompts_per_step {self.prompts_per_step} at most {max(0, most)} groups can be carried over"
            )
        if self.min_samplers > self.num_started:
            problems.append(
                f"rollout.min_samplers {self.min_samplers} is above the {self.num_started} samplers that the run starts"
            )
        scale = self.autoscale
        if scale is not None and not scale.min_samplers <= self.num_started <= scale.max_samplers:
            problems.append(
                f"rollout.autoscale keeps between {scale.min_samplers} and {scale.max_samplers} samplers, the run "
                f"starts with {self.num_started}"
            )
        return problems
