"""When completions that only vote may stop: never too early, at the first moment that is sure, and without a trace."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import combinations_with_replacement, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import Plugin, TrainSubsetSection, VotingSection
from quorum.types import Outcome, Resolution, RolloutGroup, ScoredGroup
from tests.builders import make_completion, make_group
from tests.votes import CATASTROPHE, EXACT, answer_all, section_of, tally_of
from voting.asking import finish
from voting.election import majority_decided
from voting.equivalence import EQUIVALENCES, pairwise
from voting.extract import make_extractor
from voting.replicas import Voter
from voting.resolve import resolve
from voting.rewards import reward
from voting.rules import VOTE_RULES
from voting.stopping import is_decided, stop_problems
from voting.subset import choose_trained, vote_only_indices
from voting.tally import Finished, tally

BOXED = make_extractor(Plugin(name="boxed"))
ANSWERS = st.sampled_from(["7", "8", "9", None])
TIES = st.sampled_from(["nobody", "first", "seeded"])
ABLE = ["format_only", "inverted", "majority", "random", "srt_compat", "ttrl_compat"]


def _label(answers: Sequence[str | None], **elect: Any) -> str | None:
    return resolve([tally_of(answers)], section_of(elect=elect))[0].pseudo_label


def _text(answer: str | None) -> str:
    return "no box" if answer is None else rf"so \boxed{{{answer}}}"


def _group(answers: Sequence[str | None], stopped: Sequence[int] = ()) -> RolloutGroup:
    """A group in which some completions were stopped after they had begun to box something."""
    return make_group(
        [
            make_completion(i, [1], text=r"\boxed{9}", finish_reason="abort")
            if i in stopped
            else make_completion(i, [1, 2], text=_text(answer))
            for i, answer in enumerate(answers)
        ],
        group_id=3,
    )


def _vote(group: RolloutGroup, section: VotingSection) -> tuple[Resolution, ScoredGroup]:
    """The vote on a group; what a rule asks of workers is told by equal strings."""
    made = finish(tally(group, BOXED, EXACT))
    decided = resolve([made], section)[0]
    return decided, answer_all(
        reward(group, made, decided, section), lambda label, text: text in (label, rf"so \boxed{{{label}}}")
    )


def _is_decided(answers: Sequence[str | None], k: int, section: VotingSection) -> bool:
    return finish(is_decided([Finished(_text(answer), "stop") for answer in answers], k, section, BOXED, EXACT))


def test_a_majority_is_decided_exactly_when_no_answers_to_come_can_change_it() -> None:
    for num_finished, remaining in product(range(7), range(5)):
        new = [f"new {i}" for i in range(remaining)]
        for answers in combinations_with_replacement(["7", "8", "9", None], num_finished):
            counts = list(Counter(answer for answer in answers if answer is not None).values())
            ends = combinations_with_replacement(["7", "8", "9", None, *new], remaining)
            labels = {_label([*answers, *end]) if answers or end else None for end in ends}
            assert majority_decided(counts, remaining) is (len(labels) == 1), (answers, remaining, labels)


@pytest.mark.parametrize("name", ABLE)
@given(
    finished=st.lists(ANSWERS, min_size=1, max_size=7),
    one=st.lists(st.sampled_from(["7", "8", "9", "10", "11", None]), max_size=3),
    random=st.randoms(use_true_random=False),
    tie=TIES,
    denominator=st.sampled_from(["all", "parsed"]),
)
def test_once_decided_nothing_to_come_changes_the_label_or_the_rewards_of_those_finished(
    name: str, finished: list[Any], one: list[Any], random: Any, tie: str, denominator: str
) -> None:
    """The completions to come stand anywhere in the group, and are compared with being stopped there."""
    k = len(finished) + len(one)
    section = section_of(rule=name, elect={"tie": tie, "denominator": denominator})
    if not _is_decided(finished, k, section):
        return
    late = sorted(random.sample(range(k), len(one)))
    answers: list[Any] = list(finished)
    for index, answer in zip(late, one, strict=True):
        answers.insert(index, answer)
    whole, paid = _vote(_group(answers), section)
    cut, paid_cut = _vote(_group(answers, stopped=late), section)
    assert (cut.pseudo_label, cut.end_state, cut.is_paid) == (whole.pseudo_label, whole.end_state, whole.is_paid)
    kept = np.isin(np.arange(k), late, invert=True)
    assert paid_cut.rewards[kept].tolist() == paid.rewards[kept].tolist()
    assert not paid_cut.rewards[~kept].any()
    assert not paid_cut.train_mask[~kept].any()
    assert 0 <= cut.margin <= whole.margin + 1e-12
    assert cut.agreement <= whole.agreement + 1e-12


@given(st.lists(ANSWERS, min_size=1, max_size=10), TIES)
def test_every_vote_is_decided_in_the_end_and_stays_decided(answers: list[Any], tie: str) -> None:
    section = section_of(elect={"tie": tie})
    verdicts = [_is_decided(answers[:n], len(answers), section) for n in range(len(answers) + 1)]
    assert verdicts == sorted(verdicts)
    assert verdicts[-1]


def test_a_clear_vote_is_decided_once_more_than_half_agree() -> None:
    section = VotingSection()
    assert [n for n in range(65) if _is_decided(["7"] * n, 64, section)][0] == 33


def test_completions_that_were_stopped_may_have_answered_anything() -> None:
    finished = [Finished(_text("7"), "stop")] * 3 + [Finished(_text("7"), "abort")] * 3
    assert finish(is_decided(finished, 6, VotingSection(), BOXED, EXACT)) is False
    assert finish(is_decided([*finished, Finished(_text("7"), "stop")], 7, VotingSection(), BOXED, EXACT)) is True


def test_completions_cut_at_the_limit_abstain_or_vote_by_setting() -> None:
    finished = [Finished(_text("7"), "length")] * 3
    assert finish(is_decided(finished, 4, section_of(truncated="vote"), BOXED, EXACT)) is True
    assert finish(is_decided(finished, 4, VotingSection(), BOXED, EXACT)) is False


def test_agreement_and_margin_are_what_is_left_if_all_that_were_stopped_had_disagreed() -> None:
    group = _group(["7"] * 5 + ["8"] + [None] * 2 + ["-"] * 2, stopped=[8, 9])
    made = finish(tally(group, BOXED, EXACT, truncated="vote"))
    assert made.num_stopped == 2
    assert made.outcomes[-3:] == (Outcome.UNPARSED, Outcome.STOPPED, Outcome.STOPPED)
    decided = resolve([made], VotingSection())[0]
    assert (decided.agreement, decided.margin) == (0.5, 0.2)
    parsed = resolve([made], section_of(elect={"denominator": "parsed"}))[0]
    assert (parsed.agreement, parsed.margin) == (5 / 8, 2 / 8)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rule": "soft"}, ["voting.rule=soft", "majority"]),
        ({"rule": {"name": "majority", "options": {"weight": "mean_logprob"}}}, ["weight=mean_logprob"]),
        ({"rule": {"name": "majority", "options": {"weight": "low_entropy"}}}, ["weight=low_entropy"]),
        ({"rule": {"name": "srt_compat", "options": {"soft": True}}}, ["srt_compat with soft=True"]),
        ({"equivalence": "math_verify"}, ["voting.equivalence=math_verify", "exact or raw"]),
        ({"equivalence": "numeric"}, ["voting.equivalence=numeric"]),
    ],
)
def test_rules_and_equivalences_that_cannot_tell_are_refused_by_name(fields: Any, words: list[str]) -> None:
    section = section_of(**fields)
    [problem] = stop_problems(section)
    assert problem.startswith("rollout.stop_decided: ")
    assert all(word in problem for word in [*words, "stop_decided=false"])
    with pytest.raises(ValueError, match="stop_decided"):
        finish(is_decided([], 4, section, BOXED, EXACT))


def test_every_rule_says_whether_it_can_tell_and_a_users_equivalence_is_taken_not_to() -> None:
    assert sorted(name for name in VOTE_RULES if not stop_problems(section_of(rule=name))) == ABLE
    EQUIVALENCES["anagram"] = pairwise(_same_letters)
    try:
        assert "anagram" in stop_problems(section_of(equivalence="anagram"))[0]
    finally:
        del EQUIVALENCES["anagram"]


def _same_letters(first: str, second: str) -> bool:
    return sorted(first) == sorted(second)


@given(
    st.integers(1, 12),
    st.one_of(st.none(), st.integers(1, 12)),
    st.sampled_from(["first", "random"]),
    st.integers(0, 9),
    st.randoms(use_true_random=False),
)
def test_those_that_only_vote_are_those_that_the_train_mask_leaves_out(
    k: int, num: int | None, choose: Any, seed: int, random: Any
) -> None:
    section = TrainSubsetSection(num_completions=num, choose=choose, seed=seed)
    vote_only = vote_only_indices(3, k, section)
    assert len(vote_only) == k - min(k, num or k)
    stopped = [index for index in vote_only if random.random() < 0.5]
    made = finish(tally(_group(["7"] * k, stopped), BOXED, EXACT))
    assert tuple(np.flatnonzero(~choose_trained(made, section)).tolist()) == vote_only


def test_whom_a_stratified_choice_leaves_out_is_not_known_before() -> None:
    with pytest.raises(ValueError, match="stratified"):
        vote_only_indices(0, 8, TrainSubsetSection(num_completions=4, choose="stratified"))


def test_no_way_of_choosing_takes_a_completion_that_was_stopped() -> None:
    made = finish(tally(_group(["7"] * 8, stopped=[1, 2, 6]), BOXED, EXACT))
    for choose in ("first", "random", "stratified"):
        for num in (None, 3, 5, 8):
            chosen = choose_trained(made, section_of(train={"num_completions": num, "choose": choose}).train)
            assert (chosen[[1, 2, 6]].any(), chosen.sum()) == (False, min(num or 8, 5))


def test_a_voter_says_when_a_group_is_decided() -> None:
    loop = asyncio.new_event_loop()
    voter = Voter(VotingSection())
    seven = [(i, _text("7"), "stop") for i in (5, 0, 3)]
    try:
        assert loop.run_until_complete(voter.decided(seven, 7)) is False
        assert loop.run_until_complete(voter.decided([*seven, (1, _text("7"), "stop")], 7)) is True
        assert loop.run_until_complete(voter.decided([*seven, (1, "it is 7", "stop")], 7, "last_number")) is True
        assert loop.run_until_complete(voter.decided([*seven, (1, "it is 7", "stop")], 7)) is False
    finally:
        loop.close()


def test_where_an_answer_cannot_be_read_in_time_nothing_is_certain_before_the_end() -> None:
    hanging = CATASTROPHE[1]
    section = section_of(
        extractor={"name": "regex", "options": {"pattern": r"(?:a+)+$|\d"}}, service={"cpu_seconds": 0.3}
    )
    loop = asyncio.new_event_loop()
    voter = Voter(section)
    texts = [*((i, "7", "stop") for i in range(4)), (4, hanging, "stop")]
    try:
        assert loop.run_until_complete(voter.decided(texts[:4], 6)) is True
        assert loop.run_until_complete(voter.decided(texts, 6)) is False
        assert loop.run_until_complete(voter.decided([*texts, (5, "8", "stop")], 6)) is True
    finally:
        loop.run_until_complete(voter.close())
        loop.close()
