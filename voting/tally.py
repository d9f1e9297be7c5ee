"""First phase of a vote: a group's completions become answers, and answers become clusters. Pure.

What needs a worker process is yielded as an `Ask`; `voting.asking` runs these steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal, NamedTuple

from quorum.types import Completion, FinishReason, Outcome, RevealedLabel, RolloutGroup, Tally
from voting.asking import Steps, finish
from voting.equivalence import Equivalence
from voting.extract import BoundExtractor
from voting.jobs import Ask, JobStatus


@dataclass(frozen=True, slots=True)
class Jury:
    """Who answers a prompt besides the group itself."""

    provenance: str
    """Who they are: "teacher", "cross_view" ..., or a revealed label's own provenance."""
    groups: tuple[RolloutGroup, ...] = ()
    """Groups whose every completion is a juror."""
    revealed: tuple[RevealedLabel, ...] = ()
    """Each is one juror."""


def tally(
    group: RolloutGroup,
    extract: BoundExtractor,
    equivalence: Equivalence,
    *,
    truncated: Literal["abstain", "vote"] = "abstain",
    jury: Jury | None = None,
    jury_alone: bool = False,
) -> Steps[Tally]:
    """Read every completion's answer and cluster the answers, a jury's together with the group's own.

    Args:
        group: k completions.
        extract: text -> answer or None.
        equivalence: when two answers are the same.
        truncated: what completions do that were cut at the limit. Those that were stopped abstain.
        jury: j further voters.
        jury_alone: the group itself has no say: its answers can neither join two answers of the jury into one, nor
            choose how the label is written.

    Returns:
        The tally. Permuting the completions permutes answers and outcomes and changes nothing else but the
        numbering of clusters.
    """
    jurors = [] if jury is None else [completion for other in jury.groups for completion in other.completions]
    answers, outcomes = yield from read_answers([*group.completions, *jurors], extract, truncated)
    revealed = () if jury is None else jury.revealed
    made = yield from cluster(
        group.group_id,
        answers + [label.answer for label in revealed],
        equivalence,
        outcomes + [Outcome.ANSWERED] * len(revealed),
        num_own=len(group.completions),
        jury_alone=jury_alone,
    )
    return made if jury is None else replace(made, jury_provenance=jury.provenance)


class Finished(NamedTuple):
    """What a vote reads of a completion."""

    text: str
    finish_reason: FinishReason


def read_answers(
    completions: Sequence[Completion | Finished], extract: BoundExtractor, truncated: Literal["abstain", "vote"]
) -> Steps[tuple[list[str | None], list[Outcome]]]:
    """[k] raw answers and [k] what became of each: first part of a tally. A completion that was stopped abstains."""
    answers: list[str | None] = [None] * len(completions)
    outcomes = [Outcome.ANSWERED] * len(completions)
    for i, completion in enumerate(completions):
        if completion.finish_reason == "abort":
            outcomes[i] = Outcome.STOPPED
        elif completion.finish_reason == "length" and truncated == "abstain":
            outcomes[i] = Outcome.TRUNCATED
        elif extract.is_linear:
            answers[i] = extract(completion.text)
            if answers[i] is None:
                outcomes[i] = Outcome.UNPARSED
    if not extract.is_linear:
        read = [i for i, outcome in enumerate(outcomes) if outcome is Outcome.ANSWERED]
        yield from _extract_in_workers(extract, completions, read, answers, outcomes)
    return answers, outcomes


def _extract_in_workers(
    extract: BoundExtractor,
    completions: Sequence[Completion | Finished],
    read: Sequence[int],
    answers: list[str | None],
    outcomes: list[Outcome],
) -> Steps[None]:
    options = extract.options.model_dump(mode="json")
    texts = sorted({completions[i].text for i in read})  # sorted: a limit of timeouts must not depend on the order
    if not texts:
        return
    asked = tuple((extract.name, options, text) for text in texts)
    results = yield Ask("voting.extract:extract_with", asked, is_remembered=False)
    by_text = dict(zip(texts, results, strict=True))
    for i in read:
        result = by_text[completions[i].text]
        if result.is_late:
            outcomes[i] = Outcome.TIMED_OUT
        elif result.status is JobStatus.ERROR or not isinstance(result.value, str | None):
            outcomes[i] = Outcome.ERROR
        elif result.value is None:
            outcomes[i] = Outcome.UNPARSED
        else:
            answers[i] = result.value


def tally_answers(
    group_id: int,
    answers: Sequence[str | None],
    equivalence: Equivalence,
    outcomes: Sequence[Outcome] | None = None,
) -> Tally:
    """`cluster` at once, for an equivalence that needs no worker processes.

    Example:
        >>> from configs.schema import Plugin
        >>> from voting.equivalence import make_equivalence
        >>> tally_answers(0, ["3", "$7$", None, "7."], make_equivalence(Plugin(name="exact"))).sizes
        (1, 2)
    """
    return finish(cluster(group_id, answers, equivalence, outcomes))


def cluster(
    group_id: int,
    answers: Sequence[str | None],
    equivalence: Equivalence,
    outcomes: Sequence[Outcome] | None = None,
    *,
    num_own: int | None = None,
    jury_alone: bool = False,
) -> Steps[Tally]:
    """Cluster the answers of one group.

    Equal keys are one answer; then distinct keys, sorted, are related, and a cluster is a connected component of that
    relation. A cluster is represented by its most frequent key, then the shortest, then the first in the alphabet.

    Args:
        group_id: stored in the tally.
        answers: [k + j] raw answers, the group's own first; None abstains, and so does one without a key.
        equivalence: when two answers are the same.
        outcomes: [k + j] why each answer stands as it does; None derives it from `answers`.
        num_own: k; None: all of them.
        jury_alone: cluster the jury's answers by themselves, then let each own answer join one of its clusters.
    """
    keys = [None if answer is None else equivalence.key(answer) for answer in answers]
    k = len(keys) if num_own is None else num_own
    final = list(outcomes) if outcomes is not None else [Outcome.ANSWERED] * len(keys)
    counts = Counter(key for key in keys if key is not None)
    distinct = sorted(counts)
    component: dict[str, int] = {}
    num_merges = num_undecided = 0
    if distinct:
        relation = yield from equivalence.relate(distinct)
        ranked = {key for key in keys[k:] if key is not None} if jury_alone else set()
        roots = _components(len(distinct), relation.pairs, {i for i, key in enumerate(distinct) if key in ranked})
        component = dict(zip(distinct, roots, strict=True))
        num_merges, num_undecided = _count_intransitive(roots, relation.pairs), relation.num_undecided
        failed = {k: o for k, o in zip(distinct, relation.outcomes, strict=True) if o is not Outcome.ANSWERED}
        if failed:
            for i, key in enumerate(keys):
                if key in failed:
                    final[i], keys[i] = failed[key], None
    for i, key in enumerate(keys):
        if key is None and final[i] is Outcome.ANSWERED:
            final[i] = Outcome.UNPARSED
    numbers = {root: n for n, root in enumerate(dict.fromkeys(component[key] for key in keys if key is not None))}
    number_of = {key: numbers.get(root, -1) for key, root in component.items()}
    clusters = [-1 if key is None else number_of[key] for key in keys]
    sizes = Counter(clusters[:k])
    return Tally(
        group_id=group_id,
        answers=tuple(keys[:k]),
        outcomes=tuple(final[:k]),
        cluster=tuple(clusters[:k]),
        sizes=tuple(sizes[number] for number in range(len(numbers))),
        representatives=_representatives(number_of, Counter(keys[k:]) if jury_alone else counts, counts, len(numbers)),
        num_intransitive_merges=num_merges,
        num_undecided_pairs=num_undecided,
        jury=tuple(clusters[k:]),
    )


def _components(size: int, pairs: frozenset[tuple[int, int]], ranked: set[int]) -> list[int]:
    """[size] smallest index of each one's connected component.

    Two components that hold ranked members are joined by a pair of ranked ones alone, which are looked at first.
    """
    roots = list(range(size))
    is_ranked = [index in ranked for index in range(size)]

    def root_of(i: int) -> int:
        while roots[i] != i:
            roots[i] = roots[roots[i]]
            i = roots[i]
        return i

    for i, j in sorted(pairs, key=lambda pair: (not ranked.issuperset(pair), pair)) if ranked else pairs:
        a, b = root_of(i), root_of(j)
        if is_ranked[a] and is_ranked[b] and not (i in ranked and j in ranked):
            continue
        roots[max(a, b)] = min(a, b)
        is_ranked[min(a, b)] = is_ranked[a] or is_ranked[b]
    return [root_of(i) for i in range(size)]


def _count_intransitive(roots: Sequence[int], pairs: frozenset[tuple[int, int]]) -> int:
    if not pairs:
        return 0
    return sum(roots[i] == roots[j] and (i, j) not in pairs for i, j in combinations(range(len(roots)), 2))


def _representatives(
    number_of: Mapping[str, int],
    chosen: Mapping[str | None, int] | Mapping[str, int],
    counts: Mapping[str, int],
    num_clusters: int,
) -> tuple[str, ...]:
    """Each cluster's name: what those who choose said most often, or anybody where they said none of it."""
    members: list[list[str]] = [[] for _ in range(num_clusters)]
    for key, number in number_of.items():
        if number >= 0:
            members[number].append(key)
    names = []
    for keys in members:
        said: Mapping[Any, int] = chosen if any(key in chosen for key in keys) else counts
        names.append(min(keys, key=lambda key: (-said.get(key, 0), len(key), key)) if len(keys) > 1 else keys[0])
    return tuple(names)
