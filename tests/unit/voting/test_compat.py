"""Agreement with the published SRT and TTRL implementations, against formulas of their own in this file.

Sources: "Can Large Reasoning Models Self-Train?" (arXiv 2505.21444), reward manager self_learning.py; TTRL
(arXiv 2504.16084).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import VotingSection
from quorum.registry import Options
from quorum.types import EndState, RolloutGroup, ScoredGroup, Tally
from tests.builders import make_completion, make_group
from tests.votes import RAW, answer_all, pool_of, section_of, tally_of
from voting.asking import Asker, Steps, finish
from voting.extract import BoundExtractor
from voting.jobs import JobStatus
from voting.resolve import resolve
from voting.rewards import reward
from voting.tally import tally

Verify = Callable[[str, str], Any]
"""(label or answer, text) -> whether they are equal."""


def _last_box(text: str, options: Options) -> str | None:
    boxes = re.findall(r"\\boxed\{([^{}]*)\}", text)
    return boxes[-1] if boxes else None


LAST_BOX = BoundExtractor("last_box", Options(), True, _last_box)
"""The official extraction on texts without nested braces: the last box as it stands, an empty one included."""


# ---- the formulas


@dataclass(frozen=True)
class Official:
    """What the official code makes of one prompt's responses."""

    majority: str | None
    fraction: float
    labels: dict[str, float]
    rewards: list[float]

    @property
    def is_kl_penalised(self) -> bool:
        return bool(self.labels)


def official_srt(
    answers: Sequence[str | None], texts: Sequence[str], verify: Verify, *, threshold: float, soft: bool
) -> Official:
    """Votes by equal strings among the parsed, rewards by a search in the whole response."""
    counts: dict[str, int] = {}
    for answer in answers:
        if answer is not None:
            counts[answer] = counts.get(answer, 0) + 1
    num_parsed = sum(counts.values())
    majority, fraction = None, 0.0
    for answer, number in counts.items():
        if number / num_parsed > fraction:
            majority, fraction = answer, number / num_parsed
    if soft:
        labels = {answer: number / num_parsed for answer, number in counts.items()}
    else:
        labels = {majority: 1.0} if majority is not None and fraction >= threshold else {}
    rewards = [sum(weight * bool(verify(label, text)) for label, weight in labels.items()) for text in texts]
    return Official(majority, fraction, labels, rewards)


def officially_kept(fractions: Sequence[float], is_gold: Sequence[bool], keep: float) -> set[int]:
    """Gold prompts first, then the others by majority fraction; int(N * keep) of them, equals in their order."""
    ranked = sorted(range(len(fractions)), key=lambda i: -2.0 if is_gold[i] else -fractions[i])
    return set(ranked[: int(len(fractions) * keep)])


@dataclass(frozen=True)
class Ttrl:
    """What TTRL makes of one prompt's answers."""

    label: str | None
    majority_ratio: float
    rewards: list[float]
    true_rewards: list[float]
    label_accuracy: float
    reward_accuracy: float


def official_ttrl(answers: Sequence[str | None], gold: str, verify: Verify) -> Ttrl:
    """The most common answer, the first of several, labels all; its ratio is one of all rollouts."""

    def is_equal(answer: str | None, other: str | None) -> bool:
        return answer is not None and other is not None and (answer == other or bool(verify(other, answer)))

    distinct = list(dict.fromkeys(answer for answer in answers if answer is not None))
    label = max(distinct, key=answers.count, default=None)
    rewards = [float(is_equal(answer, label)) for answer in answers]
    truth = [float(is_equal(answer, gold)) for answer in answers]
    return Ttrl(
        label,
        answers.count(label) / len(answers) if label is not None else 0.0,
        rewards,
        truth,
        float(is_equal(label, gold)),
        sum(one == other for one, other in zip(rewards, truth, strict=True)) / len(answers),
    )


# ---- ours


def _section(rule: str, **fields: Any) -> VotingSection:
    elect = {"tie": "first", "denominator": "parsed", **fields.pop("elect", {})}
    options = fields.pop("options", {})
    return section_of(
        rule={"name": rule, "options": options},
        equivalence="raw",
        truncated="vote",
        elect=elect,
        batch={"unlabeled": "zero_reward", **fields.pop("batch", {})},
        **fields,
    )


def _tallied(group: RolloutGroup) -> Tally:
    return finish(tally(group, LAST_BOX, RAW, truncated="vote"))


def _scored(groups: Sequence[RolloutGroup], section: VotingSection, verify: Verify) -> list[ScoredGroup]:
    """The groups that stay in the batch, scored; `verify` answers what the rule asks of workers."""
    tallies = [_tallied(group) for group in groups]
    decided = resolve(tallies, section)
    return [
        answer_all(reward(group, made, resolution, section), verify)
        for group, made, resolution in zip(groups, tallies, decided, strict=True)
        if resolution.end_state is None
    ]


def _group(responses: Sequence[tuple[str | None, str, bool]], group_id: int = 0) -> RolloutGroup:
    """Responses given as (content of the last box, prose before it, whether it was cut)."""
    return make_group(
        [
            make_completion(
                i,
                [1],
                text=prose + ("" if box is None else rf" \boxed{{{box}}}"),
                finish_reason="length" if is_cut else "stop",
            )
            for i, (box, prose, is_cut) in enumerate(responses)
        ],
        group_id=group_id,
    )


def _texts(group: RolloutGroup) -> list[str]:
    return [completion.text for completion in group.completions]


def _chance(seed: int) -> Verify:
    """A relation that is neither symmetric nor transitive nor even reflexive, the same for the same arguments."""

    def verify(label: str, text: str) -> bool:
        return hashlib.blake2b(f"{seed}/{label}/{text}".encode(), digest_size=1).digest()[0] % 3 == 0

    return verify


def _own_box(label: str, text: str) -> bool:
    """Equality of strings: the label is what the response boxes."""
    return _last_box(text, Options()) == label


def _mentioned(label: str, text: str) -> bool:
    """The label stands anywhere in the response."""
    return label.strip() in re.split(r"[\s{}]+", text)


_BOXES = st.sampled_from(["1", "1.0", " 1", "2", "x", "", None])
_RESPONSES = st.lists(
    st.tuples(_BOXES, st.sampled_from(["", "it is 1 or 2", r"\boxed{2} no:", "hm 1.0"]), st.booleans()),
    min_size=1,
    max_size=9,
)
_VERIFY = st.one_of(st.integers(0, 50).map(_chance), st.sampled_from([_own_box, _mentioned]))


@given(_RESPONSES, _VERIFY, st.sampled_from([0.0, 0.3, 0.5, 0.6, 1.0]), st.booleans())
def test_srt_compat_scores_like_the_official_code(responses: Any, verify: Verify, threshold: float, soft: bool) -> None:
    group = _group(responses)
    answers = [_last_box(text, Options()) for text in _texts(group)]
    official = official_srt(answers, _texts(group), verify, threshold=threshold, soft=soft)
    section = _section("srt_compat", options={"soft": soft}, elect={"min_agreement": threshold})
    [scored] = _scored([group], section, verify)
    assert scored.rewards.tolist() == pytest.approx(official.rewards, abs=1e-6)
    assert scored.kl_mask == official.is_kl_penalised
    assert scored.agreement == official.fraction
    assert scored.pseudo_label == (official.majority if official.labels else None)
    assert scored.tally.answers == tuple(answers)


@given(st.lists(_RESPONSES, min_size=1, max_size=6), st.floats(0.1, 1), st.sampled_from([0.0, 0.4, 0.6]))
def test_srt_compat_keeps_the_prompts_that_the_official_code_keeps(groups: Any, keep: float, threshold: float) -> None:
    made = [_group(responses, group_id=i) for i, responses in enumerate(groups)]
    officials = [
        official_srt([_last_box(t, Options()) for t in _texts(g)], _texts(g), _own_box, threshold=threshold, soft=False)
        for g in made
    ]
    kept = officially_kept([official.fraction for official in officials], [False] * len(made), keep)
    section = _section("srt_compat", elect={"min_agreement": threshold}, batch={"keep_fraction": keep})
    scored = {group.group.group_id: group for group in _scored(made, section, _own_box)}
    assert set(scored) == (kept or {max(range(len(made)), key=lambda i: (officials[i].fraction, -i))})
    for i, group in scored.items():
        assert group.rewards.tolist() == officials[i].rewards


_ANSWERS = st.lists(st.sampled_from(["1", "2", "3", None]), min_size=1, max_size=8)


@given(st.lists(st.tuples(_ANSWERS, st.booleans()), min_size=1, max_size=6), st.floats(0.2, 1))
def test_prompts_with_gold_labels_are_kept_first_as_in_the_official_code(groups: Any, keep: float) -> None:
    tallies = [
        tally_of(answers, jury=["2"] if is_gold else [], provenance="ground_truth" if is_gold else "", group_id=i)
        for i, (answers, is_gold) in enumerate(groups)
    ]
    fractions = [
        official_srt(answers, [""] * len(answers), _own_box, threshold=0.0, soft=False).fraction
        for answers, _ in groups
    ]
    kept = officially_kept(fractions, [is_gold for _, is_gold in groups], keep)
    section = _section("majority", labels="ground_truth", batch={"keep_fraction": keep})
    decided = resolve(tallies, section)
    if kept:
        assert {r.group_id for r in decided if r.end_state is None} == kept
    assert {r.group_id for r in decided if r.provenance == "ground_truth"} == {
        i for i, (_, is_gold) in enumerate(groups) if is_gold
    }
    for resolution, (answers, is_gold) in zip(decided, groups, strict=True):
        if is_gold:
            assert resolution.pseudo_label == "2"
            assert tallies[resolution.group_id].sizes[resolution.label_cluster] == answers.count("2")


@given(_RESPONSES, st.sampled_from([0.0, 0.5, 0.6]))
def test_with_equal_strings_the_plain_rules_pay_what_the_official_code_pays(responses: Any, threshold: float) -> None:
    group = _group(responses)
    for rule, soft in (("majority", False), ("soft", True)):
        ours = _scored([group], _section(rule, elect={"min_agreement": 0.0 if soft else threshold}), _own_box)[0]
        section = _section("srt_compat", options={"soft": soft}, elect={"min_agreement": threshold})
        theirs = _scored([group], section, _own_box)[0]
        assert ours.rewards.tolist() == pytest.approx(theirs.rewards.tolist())
        assert (ours.pseudo_label, ours.agreement, ours.kl_mask) == (
            theirs.pseudo_label,
            theirs.agreement,
            theirs.kl_mask,
        )


@given(_RESPONSES, _VERIFY, st.sampled_from(["1", "2", "z"]))
def test_ttrl_compat_scores_like_ttrl(responses: Any, verify: Verify, gold: str) -> None:
    group = _group(responses)
    answers = [_last_box(text, Options()) for text in _texts(group)]
    official = official_ttrl(answers, gold, verify)
    [scored] = _scored([group], _section("ttrl_compat", elect={"denominator": "all"}), verify)
    assert (scored.pseudo_label, scored.agreement) == (official.label, official.majority_ratio)
    assert scored.rewards.tolist() == official.rewards
    agree = [paid == true for paid, true in zip(scored.rewards.tolist(), official.true_rewards, strict=True)]
    assert sum(agree) / len(agree) == official.reward_accuracy
    plain = _scored([group], _section("majority", elect={"denominator": "all"}), verify)[0]
    by_strings = official_ttrl(answers, gold, lambda label, answer: label == answer)
    assert (plain.pseudo_label, plain.rewards.tolist()) == (by_strings.label, by_strings.rewards)
    assert float(plain.pseudo_label == gold) == by_strings.label_accuracy


# ---- their traps, by name


def _srt(responses: Sequence[tuple[str | None, str, bool]], **options: Any) -> ScoredGroup:
    return _scored([_group(responses)], _section("srt_compat", options=options), _mentioned)[0]


def test_answers_written_differently_vote_apart_and_are_paid_together() -> None:
    [scored] = _scored(
        [_group([("1", "", False), ("1", "", False), ("1.0", "is 1", False), ("2", "", False)])],
        _section("srt_compat"),
        _mentioned,
    )
    assert (scored.tally.sizes, scored.pseudo_label) == ((2, 1, 1), "1")
    assert scored.rewards.tolist() == [1, 1, 1, 0]


def test_a_response_without_a_box_can_earn_and_a_cut_one_votes() -> None:
    scored = _srt([("1", "", True), ("1", "", True), ("2", "", False), (None, "it is 1 indeed", False)])
    assert (scored.pseudo_label, scored.agreement) == ("1", 2 / 3)
    assert scored.rewards.tolist() == [1, 1, 0, 1]


def test_an_empty_box_votes_and_wins() -> None:
    scored = _srt([("", "", False), ("", "", False), ("1", "", False)])
    assert scored.pseudo_label == ""
    assert scored.kl_mask


def test_soft_labels_apply_whatever_the_threshold_margin_and_tie() -> None:
    group = _group([("1", "", False), ("2", "", False), (None, "", False)])
    for elect in ({"min_agreement": 0.9}, {"min_margin": 0.5}, {"tie": "nobody"}):
        [scored] = _scored([group], _section("srt_compat", options={"soft": True}, elect=elect), _mentioned)
        assert scored.rewards.tolist() == [0.5, 0.5, 0]
        assert scored.kl_mask


def test_without_a_label_the_tokens_stay_with_reward_zero_and_no_kl_or_leave_when_told_so() -> None:
    group = _group([(None, "1", False)] * 3)
    [scored] = _scored([group], _section("srt_compat"), _mentioned)
    assert (scored.rewards.tolist(), scored.kl_mask, scored.pseudo_label) == ([0, 0, 0], False, None)
    dropped = resolve([_tallied(group)], _section("srt_compat", batch={"unlabeled": "drop"}))
    assert dropped[0].end_state is EndState.NO_LABEL


def test_what_is_not_judged_in_time_is_paid_nothing_and_counted() -> None:
    def late(label: str, text: str) -> Any:
        return JobStatus.TIMED_OUT if "slow" in text or label == "9" else label in text

    responses = [("1", "", False), ("1", "slow", False), ("9", "", False), ("1", "", False)]
    hard, soft = (
        _scored([_group(responses)], _section("srt_compat", options={"soft": value}), late)[0]
        for value in (False, True)
    )
    assert (hard.rewards.tolist(), hard.num_unjudged) == ([1, 0, 0, 1], 1)
    assert (soft.rewards.tolist(), soft.num_unjudged) == ([0.75, 0, 0, 0.75], 4)
    [ttrl] = _scored([_group(responses)], _section("ttrl_compat"), lambda label, other: JobStatus.EXPIRED)
    assert (ttrl.rewards.tolist(), ttrl.num_unjudged) == ([1, 1, 0, 1], 1)


def test_an_error_in_a_comparison_is_paid_nothing_and_counted() -> None:
    responses = [("1", "", False), ("2", "", False)]
    [scored] = _scored([_group(responses)], _section("srt_compat"), lambda label, text: JobStatus.ERROR)
    assert (scored.rewards.tolist(), scored.num_unjudged) == ([0, 0], 2)


# ---- with math-verify itself


def _official_verify(label: str, text: str) -> bool:
    from math_verify import parse, verify
    from math_verify.parser import ExprExtractionConfig, LatexExtractionConfig

    gold = parse(rf"\boxed{{{label}}}", [LatexExtractionConfig()], parsing_timeout=None)
    found = parse(text, [ExprExtractionConfig(), LatexExtractionConfig()], parsing_timeout=None)
    return bool(verify(gold, found, timeout_seconds=None))


_MATHEMATICAL = [
    [("0.5", "", False), ("0.5", "", False), ("1/2", "", False), (None, "the answer is $0.50$", False)],
    [("", "", False), ("", "so 7", False), ("7", "", False)],
    [("2", "first 3, then", True), ("3", "", False), ("2.0", "", False), ("x", "", False), (None, "nothing", False)],
    [("x+1", "", False), ("1+x", "", False), ("x", "", False), (None, r"thus $x+1$", False)],
]


def test_with_math_verify_srt_compat_pays_what_a_search_in_the_response_finds() -> None:
    groups = [_group(responses, group_id=i) for i, responses in enumerate(_MATHEMATICAL)]
    with pool_of(cpu_seconds=5, preload=("voting.answers.mathematics:warm_up",)) as pool:
        asker = Asker(pool.workers)

        async def judge(steps: Sequence[Steps[ScoredGroup]]) -> list[ScoredGroup]:
            return list(await asyncio.gather(*(asker.run(one, 60) for one in steps)))

        for soft in (False, True):
            section = _section("srt_compat", options={"soft": soft})
            tallies = [_tallied(group) for group in groups]
            decided = resolve(tallies, section)
            steps = [reward(*parts, section) for parts in zip(groups, tallies, decided, strict=True)]
            for group, scored in zip(groups, pool.loop.run_until_complete(judge(steps)), strict=True):
                answers = [_last_box(text, Options()) for text in _texts(group)]
                official = official_srt(answers, _texts(group), _official_verify, threshold=0.0, soft=soft)
                assert scored.rewards.tolist() == pytest.approx(official.rewards)
                assert (scored.pseudo_label, scored.num_unjudged) == (official.majority, 0)
                if soft or group.group_id != 1:
                    assert sum(official.rewards) > 0
