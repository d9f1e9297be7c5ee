"""The configuration of the vote: who is elected, which groups and completions are trained on, which processes vote."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from configs.sections import Plugin, PositiveFloat, PositiveInt, Section, Share


class ElectionSection(Section):
    """Who is elected."""

    denominator: Literal["all", "parsed"] = "all"
    """What agreement is a share of: all voters, or only those whose answer could be read."""
    tie: Literal["nobody", "first", "seeded"] = "nobody"
    """Who wins when the leading answers have equally many votes. first depends on the order of completions."""
    tie_seed: int = 0
    """Seed of a seeded tie-break; with the group id and the answers it decides, never the order."""
    min_agreement: Share = 0.0
    """Agreement a winner must reach."""
    min_margin: Share = 0.0
    """How far the winner must be ahead of the runner-up, as a share."""


class BatchSection(Section):
    """Which of the step's groups are trained on."""

    unlabeled: Literal["drop", "zero_reward"] = "drop"
    """What becomes of a group that elected nobody: drop leaves the batch, and the loss is normalised without it;
    zero_reward keeps its tokens in the batch with reward 0 and without KL penalty."""
    no_signal: Literal["keep", "drop"] = "keep"
    """What becomes of a group whose rewards are all equal: it has no advantage to learn from."""
    keep_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Train only on this fraction of the step's groups, those with the highest agreement."""
    max_rounds: PositiveInt = 1
    """Dynamic sampling: further prompts are drawn for those dropped, in at most so many rounds of drawing in all."""


class TrainSubsetSection(Section):
    """Which of a group's completions are trained on; all of them vote."""

    num_completions: PositiveInt | None = None
    """Completions per group to train on; None takes all."""
    choose: Literal["first", "random", "stratified"] = "first"
    """first by index (as TTRL does); random and stratified (in proportion to the answers) by seed, not by order."""
    seed: int = 0
    """With the group id decides a random or stratified choice."""


class VotingServiceSection(Section):
    """The processes that vote."""

    num_replicas: PositiveInt = 1
    """Ray actors that tally."""
    max_replicas: PositiveInt | None = None
    """Replicas are added up to so many while groups wait, and retired when idle; None keeps num_replicas."""
    max_open_groups: PositiveInt = 64
    """Groups one replica works on at a time; more wait in the driver."""
    num_workers: PositiveInt = 1
    """Killable worker processes per replica and lane, for what cannot be trusted to end."""
    cpu_seconds: PositiveFloat = 2.0
    """CPU time one comparison or parse may take in its worker process."""
    group_seconds: PositiveFloat = 60.0
    """Wall time that reading and comparing the answers of one group may take; what is open then has timed out."""


class AlarmSection(Section):
    """Shares of completions above which the run sounds an alarm: an event, and the metric vote/num_alarms."""

    unparsed: Share = 0.5
    """No answer found in the text."""
    truncated: Share = 0.5
    """Cut at the length limit."""
    timed_out: Share = 0.01
    """Answer not read or compared in time."""
    error: Share = 0.01
    """Answer not read or compared for an error."""


class VotingSection(Section):
    """How k completions become a reward."""

    extractor: Plugin = Plugin(name="boxed")
    """How an answer is read from a completion."""
    truncated: Literal["abstain", "vote"] = "abstain"
    """What a completion cut at the limit does."""
    equivalence: Plugin = Plugin(name="exact")
    """When two answers are the same."""
    labels: Plugin = Plugin(name="vote")
    """Whose answers make the label: the group's own vote, a teacher's, a table's, the references'."""
    rule: Plugin = Plugin(name="majority")
    """How votes are weighed and what agreement with the label pays."""
    elect: ElectionSection = ElectionSection()
    """Ties, denominators, thresholds."""
    batch: BatchSection = BatchSection()
    """Groups that are dropped, and drawn again."""
    train: TrainSubsetSection = TrainSubsetSection()
    """Votes from all completions, training on some."""
    service: VotingServiceSection = VotingServiceSection()
    """Replicas, worker processes, limits."""
    alarms: AlarmSection = AlarmSection()
    """When unread answers are too many."""
