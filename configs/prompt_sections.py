"""What the vote makes of a prompt beyond one group's answers: its agreement, its past, a table made before the run."""

from __future__ import annotations

from configs.ramp import Ramp
from configs.sections import NonNegativeInt, PositiveFloat, PositiveInt, Section, Share


class GateSection(Section):
    """Train only on groups of medium agreement: neither too ambiguous nor too easy (arXiv 2505.21444, I.7).

    Acts after the election, on the agreement of those who were elected; the label stays on record. Groups whose label
    was revealed pass. A number, or a schedule `{start, end, steps, begin, shape}` over the run's steps.
    """

    min_agreement: Ramp = Ramp.constant(0.0)
    """Groups of lower agreement leave the batch as dropped:below_threshold; 0 drops none."""
    max_agreement: Ramp = Ramp.constant(1.0)
    """Groups of higher agreement leave the batch as dropped:above_threshold; 1 drops none."""

    @property
    def is_open(self) -> bool:
        """Whether every group passes at every step."""
        return self.min_agreement.greatest == 0 and self.max_agreement.least == 1

    def problems(self) -> list[str]:
        """What does not fit together, in a line each."""
        low, high = self.min_agreement.greatest, self.max_agreement.least
        if low <= high:
            return []
        return [
            f"voting.gate: min_agreement reaches {low:g} and max_agreement {high:g}: no group is within; keep "
            "min_agreement below max_agreement over the whole run"
        ]


class FlipSection(Section):
    """Weigh prompts by how often their label changes from visit to visit (TTRL-Guard, arXiv 2605.19444).

    A visit is a step in which a prompt had a label; the flip rate is the share of the last `window` visits, this one
    included, whose label was another than at the visit before. Prompts seen for the first time weigh 1.
    """

    window: PositiveInt = 5
    """Visits that the flip rate is a share of, and over which agreement is averaged."""
    threshold: Share = 0.3
    """Flip rate above which a prompt counts as flipping."""
    discount: Share = 0.5
    """A group weighs 1 - discount * flip rate."""
    confident_discount: Share = 0.3
    """A flipping prompt whose agreement is above `confident` weighs 1 - confident_discount of that."""
    confident: Share = 0.6
    """Agreement above which a flip contradicts the vote."""
    minority_share: Share = 0.3
    """Share of a flipping prompt's reward that goes to its minority answers, each its part by votes; 0 pays none."""
    minority_votes: Share = 0.25
    """Share of the completions that an answer needs to be such a minority."""
    skip_share: Share = 0.7
    """Share of re-locked prompts, by lot, that leave the batch as dropped:relocked: their label changed once, does not
    any more, and mean agreement over a full window is above `locked`. 0 skips none."""
    skip_at_most: Share = 0.25
    """Share of a round's groups that may be skipped so, at least one."""
    locked: Share = 0.7
    """Mean agreement above which a prompt counts as locked."""
    seed: NonNegativeInt = 0
    """With the group id draws the lots."""

    @property
    def memory(self) -> int:
        """Visits of a prompt that are remembered."""
        return max(20, 3 * self.window)


class PromptSection(Section):
    """What is known of a prompt beyond the step's votes, and becomes the weight of its groups in the loss."""

    table: str | None = None
    """Table of labels that `quorum label` made with the model that the run starts from: each group weighs
    exp(-(1 - agreement)^2 / (2 sigma^2)) by its prompt's agreement there (RESTRAIN's u_x, arXiv 2510.02172). Prompts
    that the table lacks weigh 1; None weighs none."""
    sigma: PositiveFloat = 0.5
    """How fast the weight falls with agreement, in shares."""
    flips: FlipSection | None = None
    """Weigh by the prompt's own past; None keeps no past."""
