"""How the groups that the vote kept end, and why a step trained on none. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from configs.schema import RunConfig
from learner.step_table import StepTable
from orchestration.vote_phase import StepVote
from quorum.types import EndState, ScoreReceipt, UpdateStats


def kept_states(config: RunConfig, receipts: Sequence[ScoreReceipt], *, has_learner: bool) -> list[EndState]:
    """End state of each group that stayed in the batch.

    Args:
        config: of the run.
        receipts: [P] of those groups.
        has_learner: whether anybody trains on them.

    Returns:
        [P] trained; too_long where every completion was left out for its length; vote_only without a learner.
    """
    if not has_learner:
        return [EndState.VOTE_ONLY] * len(receipts)
    table = StepTable.of(receipts, config.learner.overlong, config.rollout.max_completion_tokens)
    trained = set(table.trained_groups())
    return [EndState.TRAINED if i in trained else EndState.TOO_LONG for i in range(len(receipts))]


def why_empty(vote: StepVote, stats: UpdateStats) -> str:
    """What to say, after "N steps in a row", of a step without an update."""
    if stats.extra.get("learn/num_skipped_updates"):
        return (
            "had no update with a finite loss and gradient (learner.non_finite=skip left them out): lower "
            "learner.learning_rate in a new run from the last checkpoint"
        )
    if vote.num_kept:
        return (
            "had no completion to train on: learner.overlong.mask leaves out those cut at "
            "rollout.max_completion_tokens, which needs to be larger"
        )
    ends = ", ".join(sorted({str(r.end_state) for r in vote.resolutions if r.end_state}))
    return (
        f"had no trainable group (last: {ends}); the voting rule drops everything: look at voting.extractor and the "
        "completions in groups/"
    )
