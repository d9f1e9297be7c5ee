"""Replays without a stack: which steps, which settings, and what counts as different."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.load import dump_config, load_config
from configs.schema import RunConfig, VotingSection
from orchestration.cli.replay import _algorithm, _span_of, _table, _verdict
from orchestration.group_log import GroupLogWriter
from orchestration.group_table import StepRecord, closed_files
from orchestration.ledger import LedgerRow
from orchestration.replay import Replay, StepReplay, logged_metrics
from orchestration.replay_span import Span, find_span, replay_config
from orchestration.replay_votes import (
    StoredStep,
    VoteComparison,
    batch_of,
    compare_votes,
    read_step,
    stored_tallies_note,
    vote_again,
)
from orchestration.watch.jsonl import append_rows
from quorum.errors import ConfigError, DataError
from quorum.types import EndState, GroupScores, Role, UpdateStats
from tests.builders import make_completion, make_group
from voting.context import PromptPast
from voting.library import Voting

SEVEN, THREE = r"\boxed{7}", r"\boxed{3}"
TEXTS = [[SEVEN, SEVEN, THREE, "none"], [SEVEN, THREE], [THREE, THREE, SEVEN]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """One closed step as a run leaves it; the second group ties and is dropped."""
    groups = [
        make_group([make_completion(i, [5 + i, 1], text=text) for i, text in enumerate(texts)], group_id=number)
        for number, texts in enumerate(TEXTS)
    ]
    with Voting(VotingSection()) as voting:
        votes = voting.vote(groups)
    records = [
        StepRecord(group.key, vote.tally, vote.resolution, vote.end_state or EndState.TRAINED)
        for group, vote in zip(groups, votes, strict=True)
    ]
    log = GroupLogWriter(str(tmp_path), incarnation=0)
    log.close_step(0, 0, Role.TRAIN, records, *[v.scored or g for g, v in zip(groups, votes, strict=True)])
    return tmp_path


def ledger_of(stored: StoredStep) -> dict[tuple[int, int], LedgerRow]:
    return {
        (group.branch, group.group_id): LedgerRow(
            branch=group.branch,
            group_id=group.group_id,
            step=0,
            end_state=EndState.TRAINED,
            versions=(0,),
            tokens_hash=group.content_hash(),
            reward_hash="",
            prompt_id=group.prompt_id,
        )
        for group in stored.groups
    }


def again(stored: StoredStep, section: VotingSection) -> VoteComparison:
    with Voting(section) as voting:
        return compare_votes(stored, vote_again(stored, voting, section, {}), ledger_of(stored))


def test_the_same_vote_again_is_equal_and_makes_the_batch_that_was_trained(run: Path) -> None:
    stored = read_step(run, 0)
    compared = again(stored, VotingSection())
    assert compared.is_equal and (compared.num_groups, compared.num_kept) == (3, 2)
    with Voting(VotingSection()) as voting:
        batch = batch_of(stored, vote_again(stored, voting, VotingSection(), {}))
    assert [receipt.group_id for receipt in batch.receipts] == [0, 2]
    assert batch.receipts[0].rewards == (1.0, 1.0, 0.0, 0.0)
    assert batch.num_tokens == 2 * (4 + 3)


def test_another_vote_is_counted_where_it_differs(run: Path) -> None:
    section = VotingSection.model_validate({"elect": {"min_agreement": 0.6}})
    compared = again(read_step(run, 0), section)
    assert compared.num_kept == 1 and not compared.is_equal
    assert compared.differing == {"tokens": 0, "answers": 0, "labels": 1, "rewards": 1, "end states": 1}


def test_a_changed_reward_and_changed_tokens_on_disk_are_found(run: Path) -> None:
    path = closed_files(run)[0].path
    ledger = ledger_of(read_step(run, 0))
    rows = pq.read_table(path).to_pylist()
    rows[2]["rewards"][0] = 0.5
    rows[0]["completions"][1]["token_ids"][0] += 1
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(path)), path)
    stored = read_step(run, 0)
    with Voting(VotingSection()) as voting:
        votes = vote_again(stored, voting, VotingSection(), {})
    compared = compare_votes(stored, votes, ledger)
    assert {part for part, count in compared.differing.items() if count} == {"rewards", "tokens"}


def test_a_column_that_an_earlier_release_did_not_write_is_not_compared(run: Path) -> None:
    path = closed_files(run)[0].path
    pq.write_table(pq.read_table(path).drop_columns(["is_paid", "label_cluster"]), path)
    assert again(read_step(run, 0), VotingSection()).is_equal


def test_scores_that_the_learner_makes_again_weigh_the_votes_again(run: Path) -> None:
    """One sure answer outweighs two unsure ones."""
    stored = read_step(run, 0)
    section = VotingSection.model_validate({"rule": {"name": "majority", "options": {"weight": "self_certainty"}}})
    certain = [(0.1, 0.1, 5.0, 0.0), (1.0, 2.0), (1.0, 1.0, 1.0)]
    scores = [GroupScores(entropies=tuple(1.0 for _ in one), self_certainties=one) for one in certain]
    with Voting(section) as voting:
        votes = vote_again(stored, voting, section, {}, scores)
    assert [vote.pseudo_label for vote in votes] == ["3", "3", "3"]
    assert votes[0].tally.self_certainties == certain[0] and votes[0].tally.weights == certain[0]


def test_labels_from_elsewhere_keep_the_stored_tallies_and_it_is_said(run: Path) -> None:
    stored = read_step(run, 0)
    section = VotingSection.model_validate({"labels": {"name": "table", "options": {"path": "gone.parquet"}}})
    with Voting(section) as voting:
        votes = vote_again(stored, voting, section, {})
    assert [vote.tally.answers for vote in votes] == [tally.answers for tally in stored.tallies]
    assert "voting.labels=table" in (stored_tallies_note(section) or "")
    assert stored_tallies_note(VotingSection()) is None


def test_a_step_that_is_not_closed_is_named(run: Path) -> None:
    with pytest.raises(DataError, match="no closed groups of step 4"):
        read_step(run, 4)


def test_a_span_goes_from_a_checkpoint_to_the_next_or_says_what_there_is(run: Path) -> None:
    for step in (2, 6):
        (run / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
    assert find_span(run, 2, None) == Span(2, 6, has_end=True)
    assert find_span(run, 0, 1) == Span(0, 1, has_end=False)
    assert find_span(run, 0, 6) == Span(0, 6, has_end=True)
    with pytest.raises(ConfigError, match=r"after 0, 2, 6 steps .* `--steps 2\.\.4`"):
        find_span(run, 3, 4)
    with pytest.raises(ConfigError, match="nothing to replay"):
        find_span(run, 6, None)


@pytest.mark.parametrize(
    ("step", "steps", "expected"),
    [(3, None, (3, 4)), (None, "2..6", (2, 6)), (None, "2..", (2, None))],
)
def test_steps_are_read(step: int | None, steps: str | None, expected: tuple[int, int | None]) -> None:
    assert _span_of(step, steps) == expected


@pytest.mark.parametrize(("step", "steps"), [(None, None), (1, "1..2"), (None, "5"), (None, "a..b")])
def test_steps_that_say_nothing_are_refused(step: int | None, steps: str | None) -> None:
    with pytest.raises(ConfigError):
        _span_of(step, steps)


def test_an_algorithm_is_an_override_with_options() -> None:
    assert _algorithm("rloo") == 'learner.algorithm={"name": "rloo", "options": {}}'
    assert _algorithm("x,a=[1, 2],b=true") == 'learner.algorithm={"name": "x", "options": {"a": [1, 2], "b": true}}'
    with pytest.raises(ConfigError, match="option=value"):
        _algorithm("rloo,scale")


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(dump_config(load_config("demo")))
    return tmp_path


def test_only_what_a_replay_does_can_be_set_and_what_it_changes_is_told_from_operation(configured: Path) -> None:
    config, changed = replay_config(configured, ["deadlines.learn_seconds=5", "cluster.cpus_per_rank=2"])
    assert isinstance(config, RunConfig) and config.deadlines.learn_seconds == 5 and changed == ()
    overrides = ["learner.learning_rate=1e-3", "voting.elect.min_agreement=0.5"]
    assert set(replay_config(configured, overrides)[1]) == {"learner.learning_rate", "voting.elect.min_agreement"}
    with pytest.raises(ConfigError, match=r"rollout.num_samplers=3: a replay votes and learns"):
        replay_config(configured, ["rollout.num_samplers=3"])


def test_a_run_that_learned_nothing_has_nothing_to_replay(tmp_path: Path) -> None:
    config = load_config("demo", ["run.mode=rollout_only"])
    (tmp_path / "config.yaml").write_text(dump_config(config))
    with pytest.raises(ConfigError, match="learned nothing"):
        replay_config(tmp_path, [])


def test_what_the_audit_logs_of_a_step_later_hides_none_of_its_figures(tmp_path: Path) -> None:
    row = {"step": 1, "branch": 0, "incarnation": 0}
    append_rows(tmp_path / "metrics.jsonl", [{**row, "learn/loss": 0.5}, {**row, "audit/label_accuracy": 1.0}])
    assert logged_metrics(tmp_path)[1] == {**row, "learn/loss": 0.5, "audit/label_accuracy": 1.0}


def made(differing: Sequence[str] | None = (), votes: int = 0, loss: float = 0.25) -> Replay:
    zero = dict.fromkeys(("grad_norm", "kl", "entropy", "logprob_gap", "clip_share", "seconds"), 0.0)
    step = StepReplay(
        step=4,
        votes=VoteComparison(8, 7, {"rewards": votes, "tokens": 0}),
        stats=UpdateStats(step=4, version=5, num_updates=1, loss=loss, num_tokens=9, **zero),
        before={"learn/loss": 0.25, "learn/num_tokens": 9.0},
        after={"learn/loss": loss, "learn/num_tokens": 9.0, "learn/kl_mean": 0.0},
    )
    names = None if differing is None else tuple(differing)
    return Replay(Span(4, 5, names is not None), (), (step,), "abcd", 41, names, 1.0)


def test_the_verdict_names_what_differs() -> None:
    assert made().is_equal and "step 4: EQUAL" in _verdict(made()) and "all 41 tensors" in _verdict(made())
    assert "no checkpoint after 5 steps" in _verdict(made(None)) and made(None).is_equal
    unlogged = replace(made(), steps=(replace(made().steps[0], before={}),))
    assert "logged none of step 4" in _verdict(unlogged) and "logged none" not in _verdict(made())
    text = _verdict(made(["lm_head.weight"], votes=2, loss=0.5))
    for part in ("DIFFERENT", "learn/loss of step 4", "votes of step 4", "1 of 41 tensors, first lm_head.weight"):
        assert part in text
    assert not made(["x"]).is_equal and not made(votes=1).is_equal and not made(loss=0.5).is_equal
    changed = replace(made(["x"]), changed=("learner.algorithm.name",), differing_tensors=None)
    assert "changed on purpose (learner.algorithm.name)" in _verdict(changed)
    table = "\n".join(_table(made(votes=2, loss=0.5)))
    assert "2 rewards" in table and "0.25 > 0.5" in table and "9 =" in table


def test_what_was_known_of_prompts_and_the_step_come_to_the_second_vote(run: Path) -> None:
    stored = read_step(run, 0)
    section = VotingSection.model_validate({"prompts": {"flips": {"window": 2, "minority_share": 0, "skip_share": 0}}})
    pasts = (PromptPast("3", (True,), (0.5, 0.5)), PromptPast(), PromptPast("3", (False,), (0.5, 0.5)))
    with Voting(section) as voting:
        votes = vote_again(stored, voting, section, {}, (), pasts)
        compared = compare_votes(stored, votes, ledger_of(stored))
    assert [vote.scored.weight for vote in votes if vote.scored] == [0.5, 1.0]
    assert compared.differing == {"tokens": 0, "answers": 0, "labels": 0, "rewards": 1, "end states": 0}
    late = VotingSection.model_validate({"gate": {"max_agreement": {"start": 1, "end": 0.4, "begin": 3, "steps": 1}}})
    with Voting(late) as voting:
        assert sum(vote.scored is not None for vote in vote_again(stored, voting, late, {})) == 2
        again_later = vote_again(replace(stored, step=4), voting, late, {})
    assert [str(vote.end_state) for vote in again_later][::2] == ["dropped:above_threshold"] * 2
