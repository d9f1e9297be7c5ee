"""`vote` and `Voting`: hand-counted votes, in and outside an event loop, and no process left behind."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import voting
from configs.schema import Plugin, VotingSection
from quorum.errors import ConfigError, VotingError
from quorum.registry import Entry
from quorum.types import EndState, Outcome
from tests.builders import make_completion, make_group
from tests.worker_processes import gone, servers
from voting import EQUIVALENCES, VOTE_RULES, Jury, VoteRule, Voting, as_groups, pairwise, variant, vote
from voting.asking import finish
from voting.background import BackgroundLoop, each
from voting.equivalence import make_equivalence
from voting.extract import make_extractor
from voting.resolve import resolve
from voting.rewards import reward
from voting.rules import pay_members
from voting.tally import tally

ROOT = Path(__file__).parents[3]
SEVENS = [r"so \boxed{7}", r"\boxed{7.}", r"\boxed{3}", "no idea"]
HALVES = [r"\boxed{1/2}", r"\boxed{0.5}", r"\boxed{2}"]
MATH = VotingSection(equivalence=Plugin(name="math_verify"))
HEAVY = ("ray", "vllm", "torch", "deepspeed", "transformers", "pyarrow", "datasets", "math_verify", "sympy")


@pytest.fixture
def threads() -> Iterator[None]:
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name == "voting"] == []


def test_a_vote_on_texts_is_the_hand_counted_one() -> None:
    [made] = vote([SEVENS])
    assert made.answers == ("7", "7", "3", None)
    assert made.outcomes == (*[Outcome.ANSWERED] * 3, Outcome.UNPARSED)
    assert made.clusters == (0, 0, 1, -1)
    assert (made.pseudo_label, made.agreement, made.margin, made.end_state) == ("7", 0.5, 0.25, None)
    assert made.rewards.tolist() == [1, 1, 0, 0]
    assert made.trained.all()
    assert "pseudo_label='7'" in repr(made) and "agreement=0.5" in repr(made)


def test_groups_keep_their_order_and_are_numbered_by_their_place() -> None:
    texts = [[rf"\boxed{{{number}}}"] * 2 for number in range(300)]
    made = vote(texts)
    assert [one.group_id for one in made] == list(range(300))
    assert [one.pseudo_label for one in made] == [str(number) for number in range(300)]
    assert vote([]) == []


def test_options_go_to_the_rule_to_the_election_and_to_the_batch() -> None:
    [soft] = vote([SEVENS], rule="soft", denominator="all")
    assert soft.rewards.tolist() == [0.5, 0.5, 0.25, 0]
    [strict] = vote([SEVENS], min_agreement=0.6)
    assert (strict.pseudo_label, strict.end_state, strict.agreement) == (None, EndState.BELOW_THRESHOLD, 0.5)
    assert strict.rewards.tolist() == [0, 0, 0, 0] and not strict.trained.any() and strict.scored is None
    kept, dropped = vote([[r"\boxed{1}"] * 3, SEVENS], keep_fraction=0.5)
    assert (kept.end_state, dropped.end_state) == (None, EndState.KEEP_FRACTION)
    assert dropped.pseudo_label == "7" and dropped.rewards.tolist() == [0, 0, 0, 0]


def test_a_section_is_taken_as_it_is_and_words_change_it() -> None:
    section = VotingSection.model_validate({"extractor": "last_number", "elect": {"tie": "first"}})
    tied = ["I say 7", "I say 3"]
    assert vote([tied], section)[0].pseudo_label == "7"
    assert vote([tied], section, tie="nobody")[0].end_state is EndState.NO_LABEL
    assert vote([tied], section, extractor="boxed")[0].answers == (None, None)


def test_groups_of_a_run_vote_with_their_truncations_and_weights() -> None:
    completions = [
        make_completion(0, [1] * 8, text=r"\boxed{7}", logprobs=[-3.0] * 8),
        make_completion(1, [1] * 2, text=r"\boxed{3}", logprobs=[-0.1] * 2),
        make_completion(2, [1], text=r"\boxed{7}", finish_reason="length"),
    ]
    group = make_group(completions, group_id=41)
    [made] = vote([group], rule="majority", weight="mean_logprob")
    assert (made.group_id, made.pseudo_label, made.outcomes[2]) == (41, "3", Outcome.TRUNCATED)
    assert vote([group], truncated="vote")[0].pseudo_label == "7"
    with pytest.raises(ConfigError, match="looks at completions' tokens.*texts alone"):
        vote([SEVENS], weight="inverse_length")


def test_the_vote_is_the_one_of_the_phases_by_themselves() -> None:
    section = VotingSection.model_validate({"rule": "soft", "elect": {"min_margin": 0.2}})
    groups = as_groups([SEVENS, [r"\boxed{1}", r"\boxed{2}"], [r"\boxed{1}"] * 4])
    extractor, equivalence = make_extractor(section.extractor), make_equivalence(section.equivalence)
    tallies = [finish(tally(group, extractor, equivalence)) for group in groups]
    resolutions = resolve(tallies, section)
    for made, group, one, decided in zip(vote(groups, section), groups, tallies, resolutions, strict=True):
        assert (made.tally, made.resolution) == (one, decided)
        if decided.end_state is None:
            assert made.rewards.tolist() == finish(reward(group, one, decided, section)).rewards.tolist()


def test_a_jury_votes_with_the_group() -> None:
    [teacher] = as_groups([[r"\boxed{3}"] * 5])
    [made] = vote([SEVENS], labels="pooled_teacher", juries=[Jury("teacher", (teacher,))])
    assert (made.pseudo_label, made.resolution.provenance) == ("3", "teacher")
    assert made.rewards.tolist() == [0, 0, 1, 0]


def test_worker_processes_compare_and_end_with_the_call(threads: None) -> None:
    before = servers()
    halves, sevens = vote([HALVES, SEVENS], equivalence="math_verify")
    assert (halves.pseudo_label, halves.clusters, halves.agreement) == ("0.5", (0, 0, 1), pytest.approx(2 / 3))
    assert sevens.pseudo_label == "7"
    assert servers() == before


def test_it_works_where_an_event_loop_runs_already(threads: None) -> None:
    async def cell() -> list[str | None]:
        with Voting(MATH) as mine:
            return [made.pseudo_label for made in mine.vote([HALVES])]

    assert asyncio.run(cell()) == ["0.5"]


def test_worker_processes_are_kept_between_calls_and_started_again_after_a_close() -> None:
    with Voting(MATH) as mine:
        assert mine.pids == []
        first = mine.vote([HALVES])
        pids = mine.pids
        assert pids and mine.vote([HALVES])[0].resolution == first[0].resolution
        assert mine.pids == pids
        mine.close()
        assert mine.pids == [] and gone(pids)
        mine.close()
        assert mine.vote([HALVES])[0].resolution == first[0].resolution
        again = mine.pids
    assert gone(again)


def test_one_tally_is_decided_by_several_rules_and_compared_by_judges_of_their_own() -> None:
    before = servers()
    with Voting() as mine:
        tallies = mine.tally([HALVES, SEVENS])
        soft = mine.decide([HALVES, SEVENS], tallies, variant(mine.section, "soft"))
        judged = mine.decide([HALVES, SEVENS], tallies, variant(mine.section, "ttrl_compat", {"tie": "first"}))
        assert mine.pids
        with pytest.raises(ValueError, match="another equivalence"):
            mine.decide([HALVES, SEVENS], tallies, variant(mine.section, options={"equivalence": "raw"}))
    assert [one.pseudo_label for one in soft] == [None, "7"]
    assert soft[0].rewards.tolist() == pytest.approx([1 / 3] * 3)
    assert judged[0].pseudo_label == "1/2"
    assert judged[0].rewards.tolist() == [1, 1, 0]
    assert servers() == before


def test_pairs_are_compared_by_the_equivalence() -> None:
    with Voting(MATH) as mine:
        pairs = [("1/2", "0.5"), ("0.5", "1/2"), ("$7$", "7"), ("1", "2"), ("", ""), ("", "7")]
        assert mine.same(pairs) == [True, True, True, False, False, False]
        assert (mine.key(" $7$ "), mine.key("")) == ("7", None)


def test_an_error_ends_the_worker_processes(threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def pay(*arguments: object) -> np.ndarray:
        raise ZeroDivisionError("mine")

    monkeypatch.setitem(VOTE_RULES, "mine", Entry(VoteRule(pay)))  # type: ignore[arg-type]
    before = servers()
    with pytest.raises(ZeroDivisionError, match="mine"):
        vote([HALVES], MATH, rule="mine")
    with pytest.raises(ValueError, match="no completions"):
        vote([HALVES, []], MATH)
    assert servers() == before


def test_ctrl_c_ends_the_vote_and_its_worker_processes(threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EQUIVALENCES, "hostile", pairwise(re.findall))  # type: ignore[arg-type]
    section = VotingSection.model_validate({"equivalence": "hostile", "service": {"cpu_seconds": 60}})
    main = threading.main_thread().ident
    assert main is not None
    before, started = servers(), time.monotonic()
    timer = threading.Timer(1.0, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            vote([[r"\boxed{(a+)+$}", rf"\boxed{{{'a' * 40}b}}"]], section)
    finally:
        timer.cancel()
    assert time.monotonic() - started < 10
    assert servers() == before


def test_closing_ends_the_worker_processes_though_a_user_s_function_blocks_the_loop(
    threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_blocking = threading.Event()

    def weigh(group: object, options: object) -> tuple[float, ...]:
        if is_blocking.is_set():
            time.sleep(2)
        return ()

    monkeypatch.setitem(VOTE_RULES, "blocking", Entry(VoteRule(pay_members, weigh)))
    mine = Voting(variant(MATH, "blocking"))
    mine.vote([HALVES])
    pids = mine.pids
    main = threading.main_thread().ident
    assert pids and main is not None
    is_blocking.set()
    timer = threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            mine.vote([HALVES])
        mine.close(timeout=0.2)
    finally:
        timer.cancel()
    assert gone(pids)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (SEVENS, r"group 0 is one text.*vote\(\[texts\]\)"),
        (r"\boxed{7}", "put it into a list"),
        (make_group([[1]]), "put it into a list"),
        ([SEVENS, ["a", 7]], "group 1, completion 1: expected a text, got int"),
    ],
)
def test_what_is_no_list_of_groups_is_named(groups: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vote(groups)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "majorty"}, "did you mean 'majority'"),
        ({"min_agrement": 0.5}, "did you mean min_agreement"),
        ({"extractor": "boxd"}, "did you mean 'boxed'"),
        ({"equivalence": "exakt"}, "did you mean 'exact'"),
        ({"plugins": ["no_such_module"]}, "no_such_module"),
        ({"min_agreement": 2}, "voting.elect.min_agreement.*got 2"),
        ({"rule": "srt_compat", "no_signal": "drop"}, "use no_signal=keep"),
    ],
)
def test_wrong_words_are_errors_before_anything_starts(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        vote([SEVENS], **options)  # type: ignore[arg-type]


def test_work_in_the_background_is_bounded_ordered_and_ends_at_its_first_error() -> None:
    running, most = 0, 0

    async def work(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        if number == 77:
            raise ZeroDivisionError
        return number * number

    loop = BackgroundLoop()
    try:
        assert loop.run(each(list(range(50)), work, 8), 10) == [number * number for number in range(50)]
        assert most == 8
        with pytest.raises(ZeroDivisionError):
            loop.run(each(list(range(200)), work, 8), 10)
        assert loop.run(each([], work, 8), 10) == []
    finally:
        loop.stop()


def test_work_without_progress_is_given_up_and_what_goes_on_is_not() -> None:
    loop = BackgroundLoop()
    done = 0

    async def step(_: int) -> None:
        nonlocal done
        await asyncio.sleep(0.15)
        done += 1

    try:
        with pytest.raises(VotingError, match="no progress in 0.1 s"):
            loop.run(asyncio.sleep(30), 0.1)
        loop.run(each([0] * 6, step, 1), 0.3, lambda: done)
        assert done == 6
    finally:
        loop.cancel_all()
        loop.stop()


def test_importing_it_loads_no_heavy_library_and_a_submodule_loads_no_more_than_itself() -> None:
    code = f"""
import sys
import voting.jobs
assert "voting.library" not in sys.modules and "pydantic" not in sys.modules and "numpy" not in sys.modules
from voting import vote
[made] = vote([["{chr(92)}{chr(92)}boxed{{7}}"] * 2])
assert made.pseudo_label == "7"
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_every_exported_name_is_listed_and_an_unknown_one_is_an_attribute_error() -> None:
    assert set(voting.__all__) <= set(dir(voting))
    assert all(getattr(voting, name) is not None for name in voting.__all__)
    with pytest.raises(AttributeError, match="no attribute 'votes'"):
        voting.votes  # noqa: B018


def test_what_asks_for_entropies_is_refused_for_texts_by_what_to_leave_out() -> None:
    groups = [[r"\boxed{7}", r"\boxed{7}", r"\boxed{3}"]]
    with pytest.raises(ConfigError, match="tau_low=0"):
        vote(groups, rule="scrl")
    [voted] = vote(groups, rule="scrl", tau_low=0)
    assert voted.rewards.tolist() == [1.0, 1.0, 0.0]
    with pytest.raises(ConfigError, match="entropy_iqr=null"):
        vote(groups, entropy_iqr=0.75)
    with pytest.raises(ConfigError, match="unit=characters"):
        vote(groups, rule="novelty", unit="tokens")
    [voted] = vote(groups, rule="novelty")
    assert voted.rewards.tolist() == [0.75, 0.75, -0.75]
