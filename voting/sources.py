"""Reward sources: whose answers make a group's label. One interface for all of them.

A source says who votes. Answers from outside, a teacher's, those to the prompt's other view, a label revealed by the
references' dispenser, come as a jury of the group (`voting.tally.Jury`) and are clustered with the group's own, so that
agreement with the label is always membership of a cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.schema import Plugin, Ramp, Share
from quorum.registry import Entry, Options, Registry
from voting.election import Electorate
from voting.plugins import choose

Supply = Literal["none", "teacher", "views", "revealed"]
"""Where the jury comes from: nowhere, groups drawn by a teacher, the group of the other view, the dispenser."""


@dataclass(frozen=True, slots=True)
class LabelSource:
    """Who makes the label."""

    electorate: Electorate
    """Who votes where there is a jury; a group without one votes by itself, or not at all (`needs_jury`)."""
    supply: Supply
    needs_jury: bool = False
    """A group without a jury elects nobody instead of voting by itself."""


class TeacherOptions(Options):
    """Options of a fixed teacher."""

    model: str | None = None
    """Directory or hub name; None is the model that the run starts from."""
    num_completions: Annotated[int, Field(ge=1)] = 16
    """Teacher completions per prompt."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of the teacher's sampling."""
    num_samplers: Annotated[int, Field(ge=1)] = 1
    """Samplers of its own."""
    share_samplers: bool = False
    """Draw on the policy's samplers instead."""

    @model_validator(mode="after")
    def _check_sharing(self) -> TeacherOptions:
        if self.share_samplers:
            raise ValueError(
                "share_samplers needs samplers that hold two versions of the weights, which this release does not "
                "have; leave it off: the teacher then gets samplers of its own"
            )
        return self


class AverageTeacherOptions(Options):
    """Options of a teacher that follows the policy as an exponential moving average (arXiv 2512.13070, 2508.00410)."""

    num_completions: Annotated[int, Field(ge=1)] = 8
    """Teacher completions per prompt."""
    num_samplers: Annotated[int, Field(ge=1)] = 1
    """Samplers that hold the average; `learner.average_decay` says how slowly it follows."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of the teacher."""


class NoiseOptions(Options):
    """What befalls revealed labels on purpose."""

    noise: Share = 0.0
    """Share of the revealed prompts whose label is replaced by another prompt's."""
    seed: int = 0
    """With the prompt id decides which prompts are revealed, and which of them get a wrong label."""


class GroundTruthOptions(NoiseOptions):
    """Options of reference answers as labels (the RLVR baseline), or mixed with votes."""

    share: Ramp = Ramp.constant(1.0)
    """Share of the prompts whose reference is revealed; all others vote. A number, or a schedule `{start, end, steps,
    begin, shape}`, whose step is group id / rollout.prompts_per_step: groups drawn again for dropped ones run ahead.
    Who is revealed at one share is at every greater one."""
    data_sources: tuple[str, ...] = ()
    """Reveal only for prompts of these data sources; empty: all."""

    @model_validator(mode="after")
    def _check_share(self) -> GroundTruthOptions:
        if not self.share.greatest:
            raise ValueError("share is 0 at every step: nothing would be revealed; use labels=vote, or a share above 0")
        return self


class TableOptions(NoiseOptions):
    """Options of labels from a table made by `quorum label`."""

    path: str
    """Parquet file with columns prompt_id and label."""
    min_agreement: Share = 0.0
    """Labels of lower agreement in the table (column agreement) are left out."""
    missing: Literal["vote", "drop"] = "vote"
    """What prompts without a label in the table do."""


LABEL_SOURCES: Registry = {
    "vote": Entry(LabelSource("own", "none")),
    "teacher": Entry(LabelSource("jury", "teacher", needs_jury=True), TeacherOptions),
    "pooled_teacher": Entry(LabelSource("pooled", "teacher"), TeacherOptions),
    "ema_teacher": Entry(LabelSource("jury", "teacher", needs_jury=True), AverageTeacherOptions),
    "momentum": Entry(LabelSource("pooled", "teacher"), AverageTeacherOptions),
    "cross_view": Entry(LabelSource("jury", "views", needs_jury=True)),
    "table": Entry(LabelSource("jury", "revealed"), TableOptions),
    "ground_truth": Entry(LabelSource("jury", "revealed"), GroundTruthOptions),
}
"""Reward sources by name. The controls (random, format_only, inverted) are vote rules: they need no label."""


def make_source(plugin: Plugin) -> tuple[LabelSource, Options]:
    """The reward source that a configuration names, and its validated options.

    Raises:
        ConfigError: unknown name, wrong options, or a source that needs what this release does not have.
    """
    target, options = choose(LABEL_SOURCES, plugin, "voting.labels")
    source: LabelSource = target
    if isinstance(options, TableOptions) and options.missing == "drop":
        return LabelSource(source.electorate, source.supply, needs_jury=True), options
    return source, options


def electorate_of(source: LabelSource, has_jury: bool) -> Electorate:
    """Who votes in one group."""
    return source.electorate if has_jury or source.needs_jury else "own"
