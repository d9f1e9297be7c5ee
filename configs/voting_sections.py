"""The configuration of the vote: who is elected, which groups and completions are trained on, which processes vote."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from configs.prompt_sections import GateSection, PromptSection
from configs.sections import NonNegativeFloat, Plugin, PositiveFloat, PositiveInt, Section, Share


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
    entropy_iqr: NonNegativeFloat | None = None
    """Leave out those chosen whose mean token entropy is below Q1 - entropy_iqr * (Q3 - Q1) of the group
    (M-GRPO, arXiv 2512.13070: 0.75). Costs one forward pass of the learner; None leaves out none."""


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
    gate: GateSection = GateSection()
    """Groups of too little or too much agreement, by a schedule."""
    prompts: PromptSection = PromptSection()
    """Groups weighed by what is known of their prompt."""
    train: TrainSubsetSection = TrainSubsetSection()
    """Votes from all completions, training on some."""
    service: VotingServiceSection = VotingServiceSection()
    """Replicas, worker processes, limits."""
    alarms: AlarmSection = AlarmSection()
    """When unread answers are too many."""

    def problems(self, k: int, *, vote_seconds: float, stop_decided: bool = False) -> list[str]:
        """What does not fit together, in a line each.

        Args:
            k: completions per prompt.
            vote_seconds: deadlines.vote_seconds.
            stop_decided: rollout.stop_decided.
        """
        problems = []
        if self.train.num_completions is not None and not 2 <= self.train.num_completions <= k:
            problems.append(
                f"voting.train.num_completions is {self.train.num_completions}: of the {k} completions that vote "
                "(rollout.completions_per_prompt) at least 2 and at most all can be trained on"
            )
        if self.service.group_seconds >= vote_seconds:
            problems.append(
                f"voting.service.group_seconds {self.service.group_seconds:g} must be below deadlines.vote_seconds "
                f"{vote_seconds:g}: a group would count as lost before its own deadline"
            )
        if self.batch.keep_fraction < 1 and self.batch.max_rounds > 1:
            problems.append(
                "voting.batch: keep_fraction drops groups that max_rounds would draw again; use one of the two "
                "(elect.min_agreement with max_rounds, or keep_fraction with more prompts per step)"
            )
        drops = self.batch.no_signal == "drop" or self.batch.max_rounds > 1
        if self.batch.unlabeled == "zero_reward" and drops:
            problems.append(
                "voting.batch.unlabeled=zero_reward keeps groups without a label, which no_signal=drop and max_rounds "
                "would drop and draw again; use unlabeled=drop with those"
            )
        if self.service.max_replicas is not None and self.service.max_replicas < self.service.num_replicas:
            problems.append(
                f"voting.service.max_replicas {self.service.max_replicas} is below num_replicas "
                f"{self.service.num_replicas}"
            )
        if self.batch.keep_fraction < 1 and not self.gate.is_open:
            problems.append(
                "voting.gate and voting.batch.keep_fraction both drop groups by agreement; use one of the two (gate "
                "with batch.max_rounds, or keep_fraction with more prompts per step)"
            )
        flips = self.prompts.flips
        if flips is not None and flips.skip_share and flips.skip_at_most < 1 and self.batch.max_rounds > 1:
            problems.append(
                "voting.prompts.flips.skip_at_most bounds a batch that is not filled up again, and "
                "voting.batch.max_rounds draws for what is skipped; set skip_at_most=1, or skip_share=0"
            )
        problems += self.gate.problems()
        return problems + (self._stop_problems(k) if stop_decided else [])

    def _stop_problems(self, k: int) -> list[str]:
        """Why completions cannot stop once the vote is decided; what rule and equivalence can is theirs to say."""
        m = self.train.num_completions
        unfit = {
            f"voting.train.num_completions={m} trains on all {k} completions, and those are never stopped; set it to "
            f"fewer than rollout.completions_per_prompt": m is None or m >= k,
            "voting.train.choose=stratified chooses by what was answered; use first or random": (
                self.train.choose == "stratified"
            ),
            f"voting.elect.min_agreement={self.elect.min_agreement:g} asks for the agreement, of which only a lower "
            "bound is then known; set it to 0": self.elect.min_agreement > 0,
            f"voting.elect.min_margin={self.elect.min_margin:g} asks for the margin, of which only a lower bound is "
            "then known; set it to 0": self.elect.min_margin > 0,
            f"voting.batch.keep_fraction={self.batch.keep_fraction:g} ranks groups by their agreement, of which only a "
            "lower bound is then known; set it to 1": self.batch.keep_fraction < 1,
            "voting.gate asks for the agreement, of which only a lower bound is then known; leave it open": (
                not self.gate.is_open
            ),
            "voting.prompts.flips asks for the agreement, of which only a lower bound is then known; leave it out": (
                self.prompts.flips is not None
            ),
            "voting.train.entropy_iqr compares the entropies of all completions, and which are stopped depends on "
            "time; leave it out": self.train.entropy_iqr is not None,
            f"voting.labels={self.labels.name} takes labels from others than the group, whose own vote then decides "
            "nothing; use labels=vote": self.labels.name != "vote",
        }
        return [f"rollout.stop_decided: {why}, or set stop_decided=false" for why, is_so in unfit.items() if is_so]
