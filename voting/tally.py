"""First phase of a vote: a group's completions become answers, and answers become clusters. Knows no label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Literal

from quorum.types import Outcome, RolloutGroup, Tally
from voting.equivalence import Equivalence
from voting.extract import Extractor


def tally(
    group: RolloutGroup,
    extract: Extractor,
    equivalence: Equivalence,
    *,
    truncated: Literal["abstain", "vote"] = "abstain",
) -> Tally:
    """Read every completion's answer and cluster the answers.

    Args:
        group: k completions.
        extract: text -> answer or None.
        equivalence: when two answers are the same.
        truncated: what completions do that did not end by themselves.

    Returns:
        The tally. Permuting the completions permutes answers and outcomes and changes nothing else but the
        numbering of clusters.

    Raises:
        VotingError: worker processes could not be started.
    """
    answers: list[str | None] = []
    outcomes: list[Outcome] = []
    for completion in group.completions:
        if completion.finish_reason != "stop" and truncated == "abstain":
            answers.append(None)
            outcomes.append(Outcome.TRUNCATED)
            continue
        answer = extract(completion.text)
        answers.append(answer)
        outcomes.append(Outcome.UNPARSED if answer is None else Outcome.ANSWERED)
    return tally_answers(group.group_id, answers, equivalence, outcomes)


def tally_answers(
    group_id: int,
    answers: Sequence[str | None],
    equivalence: Equivalence,
    outcomes: Sequence[Outcome] | None = None,
) -> Tally:
    """Cluster the answers of one group.

    Equal keys are one answer; then distinct keys, sorted, are related, and a cluster is a connected component of that
    relation. A cluster is represented by its most frequent key, then the shortest, then the first in the alphabet.

    Args:
        group_id: stored in the tally.
        answers: [k] raw answers; None abstains, and so does one whose key is empty.
        equivalence: when two answers are the same.
        outcomes: [k] why each answer stands as it does; None derives it from `answers`.

    Raises:
        VotingError: worker processes could not be started.

    Example:
        >>> from configs.schema import VotingSection
        >>> from voting.equivalence import make_equivalence
        >>> tally_answers(0, ["3", "$7$", None, "7."], make_equivalence(VotingSection())).sizes
        (1, 2)
    """
    keys = [None if answer is None else equivalence.key(answer) or None for answer in answers]
    final = list(outcomes or (Outcome.UNPARSED if key is None else Outcome.ANSWERED for key in keys))
    counts = Counter(key for key in keys if key is not None)
    distinct = sorted(counts)
    component: dict[str, int] = {}
    num_merges = 0
    if distinct:
        relation = equivalence.relate(distinct)
        roots = _components(len(distinct), relation.pairs)
        component = {key: root for key, root in zip(distinct, roots, strict=True)}
        num_merges = _count_intransitive(roots, relation.pairs)
        failed = {k: o for k, o in zip(distinct, relation.outcomes, strict=True) if o is not Outcome.ANSWERED}
        for i, key in enumerate(keys):
            if key in failed:
                final[i], keys[i] = failed[key], None
    for i, key in enumerate(keys):
        if key is None and final[i] is Outcome.ANSWERED:
            final[i] = Outcome.UNPARSED
    numbers = {root: n for n, root in enumerate(dict.fromkeys(component[key] for key in keys if key is not None))}
    cluster = tuple(-1 if key is None else numbers[component[key]] for key in keys)
    sizes = Counter(cluster)
    return Tally(
        group_id=group_id,
        answers=tuple(keys),
        outcomes=tuple(final),
        cluster=cluster,
        sizes=tuple(sizes[number] for number in range(len(numbers))),
        representatives=_representatives(keys, cluster, counts, len(numbers)),
        num_intransitive_merges=num_merges,
    )


def _components(size: int, pairs: frozenset[tuple[int, int]]) -> list[int]:
    """[size] smallest index of each one's connected component."""
    roots = list(range(size))

    def root_of(i: int) -> int:
        while roots[i] != i:
            roots[i] = roots[roots[i]]
            i = roots[i]
        return i

    for i, j in pairs:
        a, b = root_of(i), root_of(j)
        roots[max(a, b)] = min(a, b)
    return [root_of(i) for i in range(size)]


def _count_intransitive(roots: Sequence[int], pairs: frozenset[tuple[int, int]]) -> int:
    if not pairs:
        return 0
    return sum(roots[i] == roots[j] and (i, j) not in pairs for i, j in combinations(range(len(roots)), 2))


def _representatives(
    keys: Sequence[str | None], cluster: Sequence[int], counts: Counter[str], num_clusters: int
) -> tuple[str, ...]:
    members: list[set[str]] = [set() for _ in range(num_clusters)]
    for key, number in zip(keys, cluster, strict=True):
        if key is not None:
            members[number].add(key)
    return tuple(min(keys_of, key=lambda key: (-counts[key], len(key), key)) for keys_of in members)
