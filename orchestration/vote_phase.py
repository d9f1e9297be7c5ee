"""A step's votes: tallies fetched, resolved all at once in group order, and rewarded.

consumes: finished groups.  waits for: their tallies, then their rewards.  unblocked by: voting replicas.
produces: resolutions, receipts, and references to scored groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from configs.schema import RunConfig
from orchestration.buffer import Slot
from orchestration.rollout_phase import RolloutPhase
from orchestration.stack import Stack
from quorum.types import Resolution, ScoreReceipt, Tally
from voting.context import PromptPast, StepContext
from voting.resolve import resolve


@dataclass(slots=True)
class StepVote:
    """One step's groups after the vote, round after round, in group order."""

    slots: list[Slot] = field(default_factory=list)
    tallies: list[Tally] = field(default_factory=list)
    resolutions: list[Resolution] = field(default_factory=list)
    receipts: list[ScoreReceipt] = field(default_factory=list)
    """Of the groups that stay in the batch."""
    scored: list[Any] = field(default_factory=list)
    """ObjectRef[ScoredGroup], same order as `receipts`."""
    quarantined: list[Slot] = field(default_factory=list)
    """Groups that were given up: they never came to the vote."""
    num_rounds: int = 0

    @property
    def num_kept(self) -> int:
        return len(self.receipts)

    def kept_slots(self) -> list[Slot]:
        """Slots of the groups that stay in the batch."""
        return [slot for slot, resolution in zip(self.slots, self.resolutions, strict=True) if not resolution.end_state]

    def groups(self) -> Iterator[tuple[Slot, Tally, Resolution, ScoreReceipt | None, Any]]:
        """Every group with its receipt and scored reference; None and None for one that was dropped."""
        paid = iter(zip(self.receipts, self.scored, strict=True))
        for slot, tally, resolution in zip(self.slots, self.tallies, self.resolutions, strict=True):
            receipt, scored = (None, None) if resolution.end_state else next(paid)
            yield slot, tally, resolution, receipt, scored


class VotePhase:
    """Resolves and rewards one round of groups."""

    def __init__(
        self,
        config: RunConfig,
        stack: Stack,
        rollout: RolloutPhase,
        pasts: Callable[[Sequence[Slot]], tuple[PromptPast, ...]] = lambda slots: (),
    ) -> None:
        """Bind the parts.

        Args:
            config: of the run.
            stack: whose voters reward.
            rollout: whose tallies are fetched.
            pasts: what is known of the groups' prompts before the step.
        """
        self._config, self._stack, self._rollout, self._pasts = config, stack, rollout, pasts

    def decide(self, slots: Sequence[Slot], step: int, vote: StepVote) -> list[Slot]:
        """Vote on a round's groups and add them to the step's vote; returns the slots of those dropped.

        Raises:
            VotingError: a replica failed or was late.
            StorageError: the durable log could not be written.
        """
        vote.num_rounds += 1
        if not slots:
            return []
        tallies = self._rollout.tallies([(slot.key, slot.tally) for slot in slots], step)
        resolutions = resolve(tallies, self._config.voting, StepContext(step, self._pasts(slots)))
        kept = [
            (slot.group, tally, resolution)
            for slot, tally, resolution in zip(slots, tallies, resolutions, strict=True)
            if resolution.end_state is None
        ]
        for ticket in self._stack.voting.reward(kept):
            vote.receipts += self._stack.voting.fetch(ticket)
            vote.scored += ticket.refs[1:]
        self._rollout.settle_tallies()
        vote.slots += slots
        vote.tallies += tallies
        vote.resolutions += resolutions
        return [slot for slot, resolution in zip(slots, resolutions, strict=True) if resolution.end_state]
