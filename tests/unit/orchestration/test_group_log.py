"""The group log: bit-exact rows, torn tails, kills, full disks and supersession, all on real files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from orchestration.group_log import GroupLogWriter, read_running
from orchestration.group_table import (
    GROUP_SCHEMA,
    StepRecord,
    closed_files,
    group_at,
    list_group_files,
    read_file,
    read_groups,
)
from quorum.errors import DataError, StorageError
from quorum.types import (
    Completion,
    EndState,
    GroupKey,
    Outcome,
    Resolution,
    Role,
    RolloutGroup,
    ScoredGroup,
    Tally,
    VersionSpan,
)


def make_completion(index: int, tokens: int, seed: int = 0) -> Completion:
    rng = np.random.default_rng((seed, index))
    logprobs = -rng.exponential(size=tokens).astype(np.float32)
    return Completion(
        index=index,
        token_ids=rng.integers(0, 2**31 - 1, tokens, dtype=np.int32),
        text=f"so the answer is {index} \u00e9\n",
        rollout_logprobs=logprobs,
        finish_reason="length" if index == 0 else "stop",
        spans=(VersionSpan(3, 0), VersionSpan(4, tokens // 2)),
    )


def make_group(group_id: int, *, branch: int = 0, role: Role = Role.TRAIN, k: int = 3, seed: int = 0) -> RolloutGroup:
    return RolloutGroup(
        group_id=group_id,
        prompt_id=f"{group_id:032x}",
        branch=branch,
        role=role,
        data_source="sums",
        prompt_token_ids=np.arange(group_id, group_id + 5, dtype=np.int32),
        prompt_text=f"What is {group_id} + 1?",
        completions=tuple(make_completion(index, 4 + index, seed + group_id) for index in range(k)),
        attempts=2,
    )


def make_tally(group: RolloutGroup) -> Tally:
    k = len(group.completions)
    return Tally(
        group_id=group.group_id,
        answers=(None, *["7"] * (k - 1)),
        outcomes=(Outcome.TRUNCATED, *[Outcome.ANSWERED] * (k - 1)),
        cluster=(-1, *[0] * (k - 1)),
        sizes=(k - 1,),
        representatives=("7",),
    )


def make_resolution(group: RolloutGroup, end_state: EndState | None = None) -> Resolution:
    return Resolution(
        group_id=group.group_id,
        label_cluster=0,
        pseudo_label="7",
        provenance="majority",
        agreement=2 / 3,
        margin=2 / 3,
        end_state=end_state,
    )


def make_scored(group: RolloutGroup) -> ScoredGroup:
    return ScoredGroup(
        group=group,
        tally=make_tally(group),
        pseudo_label="7",
        provenance="majority",
        agreement=2 / 3,
        margin=2 / 3,
        rewards=np.array([0, 1, 1], dtype=np.float32),
        train_mask=np.array([True, True, False]),
        kl_mask=True,
    )


def close(log: GroupLogWriter, step: int, groups: list[RolloutGroup], role: Role = Role.TRAIN) -> Path:
    records = [StepRecord(group.key, make_tally(group), make_resolution(group), EndState.TRAINED) for group in groups]
    branch = groups[0].branch
    return Path(log.close_step(step, branch, role, records, *(make_scored(group) for group in groups)))


def assert_equal_groups(left: RolloutGroup, right: RolloutGroup) -> None:
    assert left.content_hash() == right.content_hash()
    assert left.prompt_token_ids.tobytes() == right.prompt_token_ids.tobytes()
    for name in ("key", "prompt_id", "data_source", "prompt_text", "attempts"):
        assert getattr(left, name) == getattr(right, name)
    for a, b in zip(left.completions, right.completions, strict=True):
        assert (a.index, a.text, a.finish_reason, a.spans) == (b.index, b.text, b.finish_reason, b.spans)
        assert b.token_ids.dtype == np.int32 and b.rollout_logprobs.dtype == np.float32


def test_a_closed_step_holds_groups_votes_and_rewards(tmp_path: Path) -> None:
    log = GroupLogWriter(str(tmp_path), 0)
    groups = [make_group(4), make_group(5)]
    for group in groups:
        log.append(group, 7)
    path = close(log, 7, groups)
    assert path.name == "step-000007.b00.i00.parquet"
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    table = read_groups(tmp_path)
    assert table.schema.equals(GROUP_SCHEMA)
    row = table.to_pylist()[1]
    assert (row["step"], row["group_id"], row["role"], row["incarnation"]) == (7, 5, "train", 0)
    assert row["answers"] == [None, "7", "7"] and row["outcomes"] == ["truncated", "answered", "answered"]
    assert row["rewards"] == [0.0, 1.0, 1.0] and row["train_mask"] == [True, True, False]
    assert row["pseudo_label"] == "7" and row["agreement"] == 2 / 3 and row["end_state"] == "trained"
    for index, group in enumerate(groups):
        assert_equal_groups(group, group_at(table, index))


def test_tokens_and_logprobs_round_trip_bit_for_bit_even_for_odd_floats(tmp_path: Path) -> None:
    bits = np.array([0x7FC00001, 0x7FC00002, 0xFFC00000, 0x80000000, 0, 0xFF800000, 1], dtype=np.uint32)
    completion = Completion(
        index=0,
        token_ids=np.array([0, 2**31 - 1, -1, 5, 5, 5, 5], dtype=np.int32),
        text="",
        rollout_logprobs=bits.view(np.float32),
        finish_reason="abort",
        spans=(),
    )
    empty = make_completion(1, 0)
    group = RolloutGroup(
        group_id=2**40,
        prompt_id="p",
        branch=0,
        role=Role.TRAIN,
        data_source="odd \ud800",
        prompt_token_ids=np.empty(0, dtype=np.int32),
        prompt_text="\U0001f600",
        completions=(completion, empty),
    )
    log = GroupLogWriter(str(tmp_path), 0)
    log.append(group, 0)
    assert log.recover(0, Role.TRAIN, 0) == [group.key]
    assert log.fetch(group.key)[0].completions[0].rollout_logprobs.tobytes() == bits.tobytes()
    log.close_step(0, 0, Role.TRAIN, [StepRecord(group.key)], group)
    back = group_at(read_groups(tmp_path), 0)
    assert back.completions[0].rollout_logprobs.tobytes() == bits.tobytes()
    assert back.content_hash() == group.content_hash()
    assert (back.prompt_text, back.data_source) == ("\U0001f600", "odd ?")


def test_many_groups_span_row_groups_in_order(tmp_path: Path) -> None:
    log = GroupLogWriter(str(tmp_path), 0)
    groups = [make_group(number) for number in range(70)]
    close(log, 0, groups)
    table = read_groups(tmp_path, step=0)
    assert table["group_id"].to_pylist() == list(range(70))
    assert_equal_groups(groups[69], group_at(table, 69))


@pytest.mark.parametrize("cut", [1, 9, 200])
def test_a_torn_stream_is_readable_to_the_last_whole_group(tmp_path: Path, cut: int) -> None:
    log = GroupLogWriter(str(tmp_path), 0)
    groups = [make_group(number) for number in range(3)]
    for group in groups:
        log.append(group, 0)
    (file,) = list_group_files(tmp_path)
    os.truncate(file.path, file.path.stat().st_size - cut)
    later = GroupLogWriter(str(tmp_path), 1)
    assert later.recover(0, Role.TRAIN, 0) == [groups[0].key, groups[1].key]
    assert_equal_groups(groups[1], later.fetch(groups[1].key)[0])
    with pytest.raises(KeyError):
        later.fetch(groups[2].key)


@pytest.mark.parametrize("length", [0, 1, 40])
def test_a_stream_torn_in_its_header_holds_nothing(tmp_path: Path, length: int) -> None:
    log = GroupLogWriter(str(tmp_path), 0)
    log.append(make_group(0), 0)
    (file,) = list_group_files(tmp_path)
    os.truncate(file.path, length)
    assert read_running(file.path) == []
    assert GroupLogWriter(str(tmp_path), 1).recover(0, Role.TRAIN, 0) == []


def test_a_writer_killed_with_sigkill_loses_no_group_it_reported(tmp_path: Path) -> None:
    code = (
        "import sys; from orchestration.group_log import GroupLogWriter\n"
        "from tests.unit.orchestration.test_group_log import make_group\n"
        "log = GroupLogWriter(sys.argv[1], 0)\n"
        "for number in range(100000):\n"
        "    log.append(make_group(number), 0); print(number, flush=True)\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
    )
    assert writer.stdout is not None
    try:
        reported = [int(writer.stdout.readline()) for _ in range(20)]
    finally:
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().split("\n")[:-1]
        writer.wait(timeout=20)
    last = int(rest[-1]) if rest else reported[-1]
    log = GroupLogWriter(str(tmp_path), 1)
    keys = log.recover(0, Role.TRAIN, 0)
    assert [key.group_id for key in keys][: last + 1] == list(range(last + 1))
    assert len(keys) <= last + 2
    assert_equal_groups(make_group(last), log.fetch(keys[last])[0])


def test_recovery_reads_closed_files_and_streams_of_earlier_incarnations(tmp_path: Path) -> None:
    first = GroupLogWriter(str(tmp_path), 0)
    close(first, 0, [make_group(0)])
    close(first, 1, [make_group(1)])
    first.append(make_group(2), 2)
    first.append(make_group(9, branch=1), 2)
    first.append(make_group(0, role=Role.EVAL), 2)
    second = GroupLogWriter(str(tmp_path), 1)
    assert [key.group_id for key in second.recover(0, Role.TRAIN, 1)] == [1, 2]
    assert_equal_groups(make_group(1), second.fetch(GroupKey(0, Role.TRAIN, 1))[0])
    second.append(make_group(3), 2)
    third = GroupLogWriter(str(tmp_path), 2)
    assert [key.group_id for key in third.recover(0, Role.TRAIN, 1)] == [1, 2, 3]
    close(third, 2, [make_group(2), make_group(3)])
    left = sorted(file.path.name for file in list_group_files(tmp_path, Role.TRAIN) if not file.is_closed)
    assert left == ["step-000002.b01.i00.running.arrow"]


def test_a_later_incarnations_group_wins_in_recovery(tmp_path: Path) -> None:
    GroupLogWriter(str(tmp_path), 0).append(make_group(0, seed=1), 0)
    GroupLogWriter(str(tmp_path), 1).append(make_group(0, seed=2), 0)
    log = GroupLogWriter(str(tmp_path), 2)
    (key,) = log.recover(0, Role.TRAIN, 0)
    assert log.fetch(key)[0].content_hash() == make_group(0, seed=2).content_hash()


def test_evaluations_are_recovered_for_their_own_step_only(tmp_path: Path) -> None:
    log = GroupLogWriter(str(tmp_path), 0)
    path = close(log, 0, [make_group(0, role=Role.EVAL, seed=1)], Role.EVAL)
    assert path.name == "eval-step-000000.b00.i00.parquet"
    log.append(make_group(0, role=Role.EVAL, seed=2), 10)
    later = GroupLogWriter(str(tmp_path), 1)
    (key,) = later.recover(0, Role.EVAL, 10)
    assert later.fetch(key)[0].content_hash() == make_group(0, role=Role.EVAL, seed=2).content_hash()
    assert later.recover(0, Role.EVAL, 5) == []


def test_the_stream_of_a_killed_evaluation_goes_when_its_own_step_is_closed(tmp_path: Path) -> None:
    first = GroupLogWriter(str(tmp_path), 0)
    for step in (0, 10):
        first.append(make_group(0, role=Role.EVAL), step)
    second = GroupLogWriter(str(tmp_path), 1)
    close(second, 0, [make_group(0, role=Role.EVAL)], Role.EVAL)
    assert [(file.step, file.is_closed) for file in list_group_files(tmp_path)] == [(0, True), (10, False)]
    close(second, 10, [make_group(0, role=Role.EVAL)], Role.EVAL)
    assert all(file.is_closed for file in list_group_files(tmp_path))


def test_a_writer_restarted_in_the_same_incarnation_does_not_overwrite_its_stream(tmp_path: Path) -> None:
    GroupLogWriter(str(tmp_path), 0).append(make_group(0), 0)
    again = GroupLogWriter(str(tmp_path), 0)
    again.append(make_group(1), 0)
    assert [key.group_id for key in again.recover(0, Role.TRAIN, 0)] == [0, 1]


def test_a_stream_stays_until_all_its_groups_are_closed(tmp_path: Path) -> None:
    log = GroupLogWriter(str(tmp_path), 0)
    log.append(make_group(0), 0)
    log.append(make_group(1), 0)
    close(log, 0, [make_group(0)])
    assert [file.is_closed for file in list_group_files(tmp_path)] == [False, True]
    close(log, 1, [make_group(1)])
    assert [file.is_closed for file in list_group_files(tmp_path)] == [True, True]


def test_the_highest_branch_and_incarnation_counts_for_a_step(tmp_path: Path) -> None:
    close(GroupLogWriter(str(tmp_path), 0), 3, [make_group(1)])
    close(GroupLogWriter(str(tmp_path), 2), 3, [make_group(2)])
    close(GroupLogWriter(str(tmp_path), 1), 3, [make_group(3, branch=1)])
    close(GroupLogWriter(str(tmp_path), 0), 4, [make_group(4)])
    assert read_groups(tmp_path)["group_id"].to_pylist() == [3, 4]
    assert (closed_files(tmp_path)[3].branch, closed_files(tmp_path)[3].incarnation) == (1, 1)
    assert read_groups(tmp_path, step=9).num_rows == 0


def test_mismatched_records_are_refused(tmp_path: Path) -> None:
    log = GroupLogWriter(str(tmp_path), 0)
    with pytest.raises(ValueError, match="record of group"):
        log.close_step(0, 0, Role.TRAIN, [StepRecord(GroupKey(0, Role.TRAIN, 1))], make_group(2))
    with pytest.raises(ValueError, match="1 records for 0 groups"):
        log.close_step(0, 0, Role.TRAIN, [StepRecord(GroupKey(0, Role.TRAIN, 1))])
    assert list_group_files(tmp_path) == []


def test_a_broken_parquet_file_is_a_data_error_naming_it(tmp_path: Path) -> None:
    path = close(GroupLogWriter(str(tmp_path), 0), 0, [make_group(0)])
    os.truncate(path, 100)
    with pytest.raises(DataError, match="step-000000"):
        read_groups(tmp_path)


FULL_DISK = """
import resource, sys
from orchestration.group_log import GroupLogWriter
from orchestration.group_table import StepRecord
from quorum.errors import StorageError
from quorum.types import Role
from tests.unit.orchestration.test_group_log import make_group
log = GroupLogWriter(sys.argv[1], 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
groups = []
try:
    while True:
        group = make_group(len(groups)); log.append(group, 0); groups.append(group)
except StorageError as error:
    print(len(groups), error)
try:
    log.append(make_group(len(groups)), 0)
except StorageError as error:
    print("again")
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 20_000))
try:
    log.close_step(0, 0, Role.TRAIN, [StepRecord(group.key) for group in groups], *groups)
except StorageError as error:
    print(error)
"""


def test_a_full_disk_is_a_storage_error_and_loses_nothing_written_before(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[3],
        check=True,
    )
    first, again, closing = done.stdout.strip().split("\n")
    count = int(first.split()[0])
    assert count > 2 and "disk full while writing" in first and "running.arrow" in first and again == "again"
    assert "step-000000.b00.i00.parquet" in closing
    log = GroupLogWriter(str(tmp_path), 1)
    keys = log.recover(0, Role.TRAIN, 0)
    assert [key.group_id for key in keys] == list(range(count))
    assert_equal_groups(make_group(count - 1), log.fetch(keys[-1])[0])
    assert [file.path.suffix for file in list_group_files(tmp_path)] == [".arrow"]
    assert not list((tmp_path / "groups").glob("*.tmp"))


def test_a_run_directory_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write .*groups"):
        GroupLogWriter(str(tmp_path / "file"), 0)


def test_a_file_of_an_earlier_release_is_read_with_its_new_columns_empty(tmp_path: Path) -> None:
    log = GroupLogWriter(str(tmp_path), 0)
    group = make_group(3)
    path = Path(log.close_step(0, 0, Role.TRAIN, [StepRecord(group.key)], group))
    new = ["weights", "jury", "jury_provenance", "is_paid", "num_unjudged", "num_undecided_pairs", "weight", "penalty"]
    pq.write_table(pq.read_table(path).drop_columns(new), path)
    rows = read_file(path)
    assert rows.column_names == GROUP_SCHEMA.names
    assert [rows.column(name).null_count for name in new] == [1] * len(new)
    assert_equal_groups(group_at(rows, 0), group)
