"""Groups gated by agreement and weighed by what is known of their prompt: the end of `resolve`. Pure.

TTRL-Guard (arXiv 2605.19444): prompts whose label keeps changing weigh less, their minority answers keep a part of the
reward, and those that are locked again after a change are skipped now and then. RESTRAIN (arXiv 2510.02172): a prompt
weighs by the agreement of the model that the run started from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from configs.schema import FlipSection, GateSection, VotingSection
from quorum.types import EndState, Resolution, Tally
from voting.context import PromptPast, StepContext, has_flipped, winning_answers
from voting.election import NOBODY, Ballots, lot


def gaussian(share: float, center: float, sigma: float) -> float:
    """exp(-(share - center)^2 / (2 sigma^2)): 1 at the centre.

    Example:
        >>> gaussian(1.0, 1.0, 0.5), round(gaussian(0.5, 1.0, 0.5), 4)
        (1.0, 0.6065)
    """
    return math.exp(-((share - center) ** 2) / (2.0 * sigma**2))


def gated(decided: Resolution, section: GateSection, step: int, *, is_revealed: bool) -> Resolution:
    """The resolution with its end state where its agreement is outside the gate. A revealed label passes.

    Args:
        decided: of one group.
        section: the gate.
        step: schedules go by it.
        is_revealed: whether the label came from the dispenser: one juror always agrees with itself.
    """
    if decided.end_state is not None or decided.label_cluster == NOBODY or is_revealed or section.is_open:
        return decided
    if decided.agreement < section.min_agreement.at(step):
        return replace(decided, end_state=EndState.BELOW_THRESHOLD)
    if decided.agreement > section.max_agreement.at(step):
        return replace(decided, end_state=EndState.ABOVE_THRESHOLD)
    return decided


def weighed(
    decided: Resolution, tally: Tally, ballots: Ballots, section: VotingSection, past: PromptPast
) -> Resolution:
    """The resolution with the weight of its prompt, and what its minority answers are paid.

    Args:
        decided: of one group.
        tally: of this group.
        ballots: its votes.
        section: `prompts` says what counts.
        past: of its prompt.
    """
    if decided.end_state is not None:
        return decided
    prompts, weight, minority = section.prompts, decided.weight, decided.minority
    if prompts.table is not None and past.base_agreement is not None:
        weight *= gaussian(past.base_agreement, 1.0, prompts.sigma)
    if prompts.flips is not None and decided.label_cluster != NOBODY:
        flips, known = prompts.flips, _with_this_visit(decided, tally, past)
        rate = known.flip_rate(flips.window)
        weight *= 1.0 - flips.discount * rate
        if rate > flips.threshold:
            if decided.agreement > flips.confident:
                weight *= 1.0 - flips.confident_discount
            minority = _minority(ballots, decided.label_cluster, flips)
    return replace(decided, weight=weight, minority=minority)


def skipped(
    decided: Sequence[Resolution], tallies: Sequence[Tally], section: FlipSection | None, context: StepContext
) -> list[Resolution]:
    """The resolutions, re-locked prompts among them dropped by lot: the first drawn, in group order, up to the most.

    Args:
        decided: [P] a round's.
        tallies: [P]
        section: None skips none.
        context: with the prompts' pasts.
    """
    if section is None or not section.skip_share:
        return list(decided)
    room = max(1, int(len(decided) * section.skip_at_most))
    made = []
    for position, (resolution, tally) in enumerate(zip(decided, tallies, strict=True)):
        is_out = (
            room > 0
            and resolution.end_state is None
            and resolution.label_cluster != NOBODY
            and is_relocked(_with_this_visit(resolution, tally, context.past(position)), section)
            and _is_drawn(section, resolution.group_id)
        )
        room -= is_out
        made.append(replace(resolution, end_state=EndState.RELOCKED) if is_out else resolution)
    return made


def is_relocked(past: PromptPast, section: FlipSection) -> bool:
    """Whether a prompt's label changed once, does not any more, and is held by most, over a full window of visits."""
    recent = past.agreements[-section.window :]
    return (
        len(past.flips) >= section.window
        and any(past.flips)
        and past.flip_rate(section.window) <= section.threshold
        and math.fsum(recent) / len(recent) > section.locked
    )


def _with_this_visit(decided: Resolution, tally: Tally, past: PromptPast) -> PromptPast:
    assert decided.pseudo_label is not None
    answers = winning_answers(tally.answers, tally.cluster, decided.label_cluster)
    return past.with_visit(has_flipped(decided.pseudo_label, past.label, answers), decided.agreement)


def _minority(ballots: Ballots, winner: int, section: FlipSection) -> tuple[float, ...]:
    """[C] each minority answer's part of `minority_share`, by its votes; empty where no answer has votes enough."""
    enough = section.minority_votes * ballots.num_all
    votes = [
        count if number != winner and count > 0 and count >= enough else 0.0
        for number, count in enumerate(ballots.votes)
    ]
    total = math.fsum(votes)
    return tuple(section.minority_share * count / total for count in votes) if total and section.minority_share else ()


def _is_drawn(section: FlipSection, group_id: int) -> bool:
    return int.from_bytes(lot(section.seed, group_id, "relocked"), "big") < section.skip_share * 2**64
