"""Steps of a run once more, from a checkpoint and the stored groups: vote, learn, compare. No sampler is started.

Left as the run was, a replay must come to the same votes, the same update figures and the same weights, bit for bit
on hardware that is reproducible; with another algorithm or setting it shows what the run would have learned instead.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema import RunConfig
from data.model_files import check_model_dir
from learner.group import LearnerGroup
from orchestration.budgets import budget_note, with_learned_budgets
from orchestration.checkpoint import checkpoint_of_step, read_labels
from orchestration.cluster import Cluster
from orchestration.labels import needs_scores, teacher_of
from orchestration.ledger import read_ledger
from orchestration.machine import ask_cluster
from orchestration.plan import ResourcePlan, make_plan
from orchestration.prompt_pasts import label_memory, load_base_agreements, pasts_of
from orchestration.replay_span import Span, check_steps
from orchestration.replay_votes import (
    VoteComparison,
    batch_of,
    compare_votes,
    open_voting,
    read_step,
    stored_tallies_note,
    vote_again,
)
from orchestration.stack import with_absolute_model
from orchestration.step_metrics import learn_metrics
from orchestration.stored_rollouts import extractors_by_prompt
from orchestration.watch.jsonl import current_rows, read_rows
from orchestration.watch.label_history import LabelHistory
from orchestration.watch.metrics import FILE_NAME
from quorum.types import GroupScores, RolloutGroup, UpdateStats

_TIMES = ("_seconds", "_per_second")
"""Endings of metrics that say nothing of what was learned."""


@dataclass(frozen=True, slots=True)
class StepReplay:
    """One step, voted on and learned again."""

    step: int
    votes: VoteComparison
    stats: UpdateStats
    before: Mapping[str, float]
    """learn/* metrics that the run logged of the step; empty where it logged none."""
    after: Mapping[str, float]
    """The same metrics now."""

    @property
    def differing(self) -> list[str]:
        """Metrics, of those that both have, that are not the same number."""
        return [name for name, value in self.before.items() if name in self.after and self.after[name] != value]

    @property
    def is_equal(self) -> bool:
        return self.votes.is_equal and not self.differing


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of a replay."""

    span: Span
    changed: tuple[str, ...]
    """Settings that make another history or other bits, changed on purpose."""
    steps: tuple[StepReplay, ...]
    weights_hash: str
    """Hash of all weights after the last step."""
    num_tensors: int
    differing_tensors: tuple[str, ...] | None
    """Tensors that are not the next checkpoint's; None where it was not compared with one."""
    seconds: float

    @property
    def is_equal(self) -> bool:
        """Whether everything that could be compared is the same."""
        return all(step.is_equal for step in self.steps) and not self.differing_tensors


def replay(
    path: Path,
    config: RunConfig,
    changed: Sequence[str],
    span: Span,
    *,
    say: Callable[[str], None] = lambda text: None,
) -> Replay:
    """Vote and learn the steps of a span again and compare.

    Args:
        path: of the run; nothing in it is changed.
        config: as `replay_config` gives it, and `changed` with it.
        changed: settings that make another history: then the weights are not compared.
        span: as `find_span` gives it.
        say: told what is going on.

    Raises:
        DataError, ResourceError: before anything starts.
        LearnerError, VotingError: a stage failed.
    """
    began = time.monotonic()
    check_model_dir(config.model)
    check_steps(path, span)
    note = stored_tallies_note(config.voting)
    if note:
        say(note)
    for learned in budget_note(config, path):
        say(f"{learned}; steps learned before that were packed differently, and differ in their last bits")
    with _ranks_at_hand(with_learned_budgets(config, path)) as open_learner:
        expected: dict[str, str] | None = None
        if span.has_end and not changed and not span.first:
            with open_learner() as learner:  # of its own: the base model comes from a fresh start alone
                expected = _checkpoint_checksums(path, learner, span.last, say)
        with open_learner() as learner:
            if span.first:
                if span.has_end and not changed:
                    expected = _checkpoint_checksums(path, learner, span.last, say)
                learner.load(str(checkpoint_of_step(path, span.first)[0]))
            steps = tuple(_replay_steps(path, config, learner, span, say))
            found = _checksums(learner, span.last)
    differing = None if expected is None else _differing(expected, found)
    return Replay(
        span=span,
        changed=tuple(changed),
        steps=steps,
        weights_hash=_hash(found),
        num_tensors=len(found),
        differing_tensors=differing,
        seconds=time.monotonic() - began,
    )


def _replay_steps(
    path: Path, config: RunConfig, learner: LearnerGroup, span: Span, say: Callable[[str], None]
) -> Iterator[StepReplay]:
    ledger = {(row.branch, row.group_id): row for row in read_ledger(path)}
    logged = logged_metrics(path)
    extractors = extractors_by_prompt(config) if config.voting.labels.name == "vote" else {}
    held_labels = read_labels(checkpoint_of_step(path, span.first)[0]) if span.first else {}
    history = LabelHistory.from_state(held_labels, label_memory(config.voting))
    base = load_base_agreements(config)
    with open_voting(config) as voting:
        for step in range(span.first, span.last):
            held = read_step(path, step)
            say(f"step {step}: voting on {len(held.groups)} groups, {held.num_tokens:,} tokens, and learning")
            scores = _scores(learner, held.groups) if needs_scores(config) else ()
            prompt_ids = [group.prompt_id for group in held.groups]
            pasts = pasts_of(prompt_ids, config.voting, history, base)
            votes = vote_again(held, voting, config.voting, extractors, scores, pasts)
            history.visit_groups(prompt_ids, [vote.tally for vote in votes], [vote.resolution for vote in votes])
            stats = learner.update(batch_of(held, votes))
            after = _learned(learn_metrics(stats, has_kl=True))
            before = {name: value for name, value in _learned(logged.get(step, {})).items() if name in after}
            yield StepReplay(step, compare_votes(held, votes, ledger), stats, before, after)


def logged_metrics(path: Path) -> dict[int, dict[str, Any]]:
    """What the run logged of every step: a step's row, and what the audit and an evaluation added to it in others."""
    steps = current_rows(read_rows(path / FILE_NAME))
    return {step: {name: value for row in rows for name, value in row.items()} for step, rows in steps.items()}


def _scores(learner: LearnerGroup, groups: Sequence[RolloutGroup]) -> list[GroupScores]:
    import ray

    return learner.score([ray.put(group) for group in groups])


def _learned(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of an update that are the same whenever the update is."""
    return {
        name: value
        for name, value in metrics.items()
        if (name.startswith("learn/") or name == "sync/logprob_gap_mean") and not name.endswith(_TIMES)
    }


@contextmanager
def _ranks_at_hand(config: RunConfig) -> Iterator[Callable[[], Any]]:
    """Ray with room for the ranks; gives what starts a fresh learner, one at a time."""
    address = config.cluster.address
    held = None if address == "local" else ask_cluster(address)[0]
    plan = make_plan(config, with_samplers=False, with_voters=False, cluster=held)
    # Snapshots are taken in the samplers' precision; a comparison wants all of the weights' bits.
    exact = config.rollout.model_copy(update={"dtype": "float32"})
    config = with_absolute_model(config.model_copy(update={"rollout": exact}))
    cluster = Cluster.start(config, plan, f"quorum-replay-{uuid.uuid4().hex[:12]}")
    try:
        options = [cluster.place(f"rank-{i}", plan.cpus_per_rank, plan.gpus_per_rank) for i in range(plan.num_ranks)]
        yield lambda: _open_learner(config, plan, options)
    finally:
        cluster.stop()


@contextmanager
def _open_learner(
    config: RunConfig, plan: ResourcePlan, options: Sequence[Mapping[str, Any]]
) -> Iterator[LearnerGroup]:
    teacher = teacher_of(config)
    learner = LearnerGroup.start(
        config,
        device=plan.device,
        actor_options=options,
        keeps_average=teacher is not None and teacher.is_average,
    )
    try:
        yield learner
    finally:
        learner.stop()


def _checkpoint_checksums(path: Path, learner: LearnerGroup, last: int, say: Callable[[str], None]) -> dict[str, str]:
    say(f"hashing the weights of the checkpoint after {last} steps")
    learner.load(str(checkpoint_of_step(path, last)[0]))
    return _checksums(learner, last)


def _checksums(learner: LearnerGroup, version: int) -> dict[str, str]:
    learner.publish(version, 0)
    return learner.checksums(version)


def _differing(expected: Mapping[str, str], found: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name))


def _hash(checksums: Mapping[str, str]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(checksums):
        digest.update(f"{name}={checksums[name]}\n".encode())
    return digest.hexdigest()
