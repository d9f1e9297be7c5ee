"""Samplers against learner ranks: how long a step takes with so many of each, and the fastest split of the GPUs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from configs.schema import RunConfig
from orchestration.planning.rates import Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step as it is expected to go."""

    num_samplers: int
    num_ranks: int
    gpus: int
    """Used; those left over are paid for and idle."""
    rollout_seconds: float
    learn_seconds: float
    sync_seconds: float
    overlaps: bool
    """Whether samplers go on while the learner works."""

    @property
    def seconds(self) -> float:
        """Strict: one after another. Overlapped: the slower of the two, and the transfer."""
        if self.overlaps:
            return max(self.rollout_seconds, self.learn_seconds) + self.sync_seconds
        return self.rollout_seconds + self.learn_seconds + self.sync_seconds

    @property
    def limited_by(self) -> str:
        """Which side takes longer."""
        return "samplers" if self.rollout_seconds >= self.learn_seconds else "learner"


def expected_step(config: RunConfig, rates: Rates, num_samplers: int, num_ranks: int, sync_seconds: float) -> Step:
    """Of so many samplers and ranks.

    Rollout is the step's tokens over the samplers' rate: the tail, in which only the longest completions run, is in it
    only as far as it is in the rate. Votes go on beside the rollout and are left out.
    """
    rollout = config.rollout
    tokens = rollout.prompts_per_step * rollout.completions_per_prompt * rates.mean_completion_tokens
    subset = config.voting.train.num_completions or rollout.completions_per_prompt
    trained = tokens * min(1.0, subset / rollout.completions_per_prompt)
    colocate = config.cluster.colocate
    gpus = num_ranks if colocate else num_samplers * rollout.tensor_parallel_size + num_ranks
    return Step(
        num_samplers=num_samplers,
        num_ranks=num_ranks,
        gpus=gpus,
        rollout_seconds=tokens / (num_samplers * rates.sampler_tokens_per_second),
        learn_seconds=trained / (num_ranks * rates.learner_tokens_per_second),
        sync_seconds=sync_seconds if rates.sync_seconds is None else rates.sync_seconds,
        overlaps=rollout.max_off_policy_steps > 0,
    )


def splits(config: RunConfig, num_gpus: int, gpus_per_node: int) -> Iterator[tuple[int, int]]:
    """(samplers, ranks) that use the GPUs: a sampler's workers on one node, ranks in whole parts of a sequence."""
    workers, part = config.rollout.tensor_parallel_size, config.learner.sequence_parallel_size
    if config.cluster.colocate:
        yield from ((count, count) for count in range(num_gpus - num_gpus % part, 0, -part))
        return
    per_node = gpus_per_node // workers
    nodes, rest = divmod(num_gpus, gpus_per_node)
    most = nodes * per_node + rest // workers
    for ranks in range(part, num_gpus, part):
        samplers = min((num_gpus - ranks) // workers, most)
        if samplers >= config.rollout.min_samplers:
            yield samplers, ranks


def best_split(
    config: RunConfig,
    num_gpus: int,
    gpus_per_node: int,
    *,
    fits: Callable[[int], bool],
    step: Callable[[int, int], Step],
) -> Step | None:
    """The split with the shortest step among those that fit; of equals the one with fewer ranks.

    Args:
        config: of the run.
        num_gpus: there are.
        gpus_per_node: a sampler's workers share a node.
        fits: whether a rank's memory suffices with so many ranks.
        step: expected, of (samplers, ranks).
    """
    most = config.rollout.prompts_per_step * config.rollout.completions_per_prompt
    candidates = [(samplers, ranks) for samplers, ranks in splits(config, num_gpus, gpus_per_node) if ranks <= most]
    candidates.sort(key=lambda one: one[1])
    enough = bisect_left(candidates, True, key=lambda one: fits(one[1]))  # a rank's memory falls with their number
    return min((step(*one) for one in candidates[enough:]), key=lambda one: (one.seconds, one.num_ranks), default=None)
