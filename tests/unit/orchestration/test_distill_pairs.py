"""What stored groups offer for offline training: by hand, by seed, and never an answer from outside."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from orchestration.distill import DistillOptions, distill
from orchestration.distill_pairs import Example, VotedRow, majority_examples, preference_pairs, read_voted
from orchestration.group_log import GroupLogWriter
from orchestration.group_table import StepRecord
from quorum.errors import ConfigError, DataError
from quorum.types import EndState, Role
from tests.builders import make_completion, make_group
from voting.groups import VotedGroup
from voting.library import vote


def voted(clusters: Sequence[int], label: int, *, group_id: int = 0, cut: Sequence[int] = ()) -> VotedRow:
    """A group whose completion i has the single token 10 + i."""
    sizes = tuple(clusters.count(number) for number in range(max(clusters) + 1))
    return VotedRow(
        branch=0,
        group_id=group_id,
        prompt=(1, 2),
        completions=tuple((10 + i,) for i in range(len(clusters))),
        is_whole=tuple(i not in cut for i in range(len(clusters))),
        cluster=tuple(clusters),
        sizes=sizes,
        label_cluster=label,
        provenance="majority",
    )


def test_supervised_examples_are_all_whole_completions_with_the_pseudo_label() -> None:
    rows = [voted([0, 1, 0, -1, 0], 0, cut=[2]), voted([0, 1], -1, group_id=1)]
    examples, selection = majority_examples(rows)
    assert examples == [Example((1, 2), (10,)), Example((1, 2), (14,))]
    assert selection.num_groups == 2 and selection.left_out == {"no label": 1}
    assert selection.provenances == {"majority": 1}


def test_a_pair_sets_the_most_against_the_least_consistent_answer_with_the_share_of_votes_between_them() -> None:
    # Votes 4, 2, 1 of k = 8; one abstains. w = (4 - 1) / 8.
    [pair], _ = preference_pairs([voted([0, 0, 1, 0, 2, -1, 1, 0], 0)], min_votes=2, seed=0)
    assert pair.rejected == (14,), "the only completion with the answer that fewest gave"
    assert pair.chosen in {(10,), (11,), (13,), (17,)}
    assert (pair.votes_chosen, pair.votes_rejected, pair.weight) == (4, 1, 0.375)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (voted([0, 0, 0, 0], 0), "all answers agree"),
        (voted([0, 0, 0, -1], 0), "all answers agree"),
        (voted([0, 0, 1, 1], -1), "no label"),
        (voted([0, 0, 1, -1], 0), "too few votes"),
        (voted([0, 0, 0, 1], 0, cut=[3]), "only cut completions"),
        (voted([0, 1, 1, 1], 0), "too few votes"),
    ],
)
def test_a_group_without_a_pair_says_why(row: VotedRow, reason: str) -> None:
    pairs, selection = preference_pairs([row], min_votes=2, seed=0)
    assert pairs == [] and selection.left_out == {reason: 1}


def test_a_label_that_the_group_itself_hardly_gave_has_nothing_less_consistent() -> None:
    pairs, selection = preference_pairs([voted([0, 1, 1, 1], 0)], min_votes=0, seed=0)
    assert pairs == [] and selection.left_out == {"no answer is less consistent": 1}


def test_pairs_depend_on_seed_and_group_alone() -> None:
    rows = [voted([0] * 8 + [1] * 3 + [2] * 3, 0, group_id=i) for i in range(40)]
    first, _ = preference_pairs(rows, min_votes=2, seed=0)
    again, _ = preference_pairs(list(reversed(rows)), min_votes=2, seed=0)
    other, _ = preference_pairs(rows, min_votes=2, seed=1)
    assert first == list(reversed(again)) and first != other
    assert len({pair.chosen for pair in first}) > 4 and len({pair.rejected for pair in first}) > 3, "both are drawn"


def write_run(path: Path, texts: Sequence[Sequence[str]]) -> list[VotedGroup]:
    """A closed step of groups, voted on as a run does."""
    groups = [
        make_group([make_completion(i, [5 + i, 1], text=text) for i, text in enumerate(one)], group_id=number)
        for number, one in enumerate(texts)
    ]
    votes = vote(groups)
    log = GroupLogWriter(str(path), incarnation=0)
    records = [
        StepRecord(group.key, made.tally, made.resolution, made.end_state or EndState.TRAINED)
        for group, made in zip(groups, votes, strict=True)
    ]
    log.close_step(0, 0, Role.TRAIN, records, *[v.scored or g for g, v in zip(groups, votes, strict=True)])
    return votes


def test_stored_groups_are_read_with_tokens_and_votes_as_they_are(tmp_path: Path) -> None:
    seven, three = r"\boxed{7}", r"\boxed{3}"
    write_run(tmp_path, [[seven, seven, three, "none"], [seven, three, "none", "none"]])
    rows = list(read_voted(tmp_path))
    assert [row.group_id for row in rows] == [0, 1]
    assert rows[0].completions == ((5, 1), (6, 1), (7, 1), (8, 1)) and rows[0].prompt == (3, 4, 5)
    assert rows[0].cluster == (0, 0, 1, -1) and rows[0].sizes == (2, 1) and rows[0].label_cluster == 0
    assert rows[1].label_cluster == -1, "a tie elects nobody"
    assert list(read_voted(tmp_path, range(1))) == rows
    with pytest.raises(DataError, match="no closed training step"):
        next(read_voted(tmp_path, range(1, 5)))


def test_contradicting_options_are_refused_together_before_anything_is_read(tmp_path: Path) -> None:
    options = DistillOptions(method="sft", batch_size=6, micro_batch_size=4, min_votes=1, epochs=0)
    with pytest.raises(ConfigError) as caught:
        distill(tmp_path / "no-run", tmp_path, options)
    assert len(caught.value.problems) == 4
    with pytest.raises(ConfigError, match="min_votes"):
        distill(tmp_path / "no-run", tmp_path / "out", replace(options, batch_size=8, epochs=1))
