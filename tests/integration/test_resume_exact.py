"""Resume is exact, whatever ended the run before: the history is that of a run that nothing disturbed, bit for bit.

One run is killed with -9 three times, driver and all, and then loses a learner rank: at points drawn at random. Their
seed stands in the test's name; RESUME_SEED=N draws them again.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestration.checkpoint import latest_checkpoint
from orchestration.export_model import export
from orchestration.group_log import GroupLogWriter, read_running
from orchestration.group_table import holds_group
from orchestration.run_dir import read_info
from orchestration.watch.jsonl import read_rows
from quorum.errors import ConfigError, DataError, LearnerError
from quorum.types import Role
from tests.integration.exact_runs import PROMPTS, arguments, assert_same, environment
from tests.integration.learner_processes import Ranks, make_config, make_model
from tests.integration.run_helpers import (
    Finished,
    alive,
    descendants,
    finish,
    quorum,
    seconds_until_gone,
    start,
)

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

SEED = int(os.environ.get("RESUME_SEED") or time.time())
LEG_SECONDS, GONE_SECONDS = 280.0, 10.0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exact")


@pytest.mark.parametrize("seed", [SEED])
def test_three_kills_and_a_lost_rank_leave_the_history_of_an_undisturbed_run(
    undisturbed: Path, root: Path, seed: int
) -> None:
    draw, run, env = random.Random(seed), root / "disturbed", environment(root / "sabotage")
    in_rollout, unsaved = draw.randrange(3), draw.choice((3, 4))
    num_groups, late = draw.randint(1, PROMPTS // 2), draw.uniform(0, 0.2)
    moments: list[Callable[[], bool]] = [
        lambda: num_running(run, in_rollout) >= num_groups,
        lambda: len(read_rows(run / "ledger.jsonl")) and read_rows(run / "ledger.jsonl")[-1]["step"] >= unsaved,
        lambda: (run / "checkpoints" / ".step-000006.tmp").exists() and time.sleep(late) is None,
    ]
    words, owed = arguments(run), Counter()
    for incarnation, moment in enumerate(moments):
        kill_at(words, env, moment)
        check_recovered(run, incarnation, owed)
        words, owed = ["train", "--resume", str(run)], durable_groups(run, root / f"copy-{incarnation}")
    assert saved_steps(run) in (4, 6), "the checkpoint that was being written is whole or not there"

    (root / "sabotage" / "die").write_text(str(draw.uniform(0, 0.2)))
    done = quorum(*words, env=env)
    assert done.code == 0, done.output[-3000:]
    assert "the learner starts again (1 of at most 3 times)" in done.output
    assert read_info(run).incarnation == 4, "three resumes and a restart of the learner"
    check_recovered(run, 3, owed)
    assert_same(run, undisturbed)
    assert not list((run / "checkpoints").glob(".*")), "what the kills left is cleared away"


def kill_at(words: list[str], env: dict[str, str], moment: Callable[[], bool]) -> None:
    """Start the run and end driver and all its processes with -9 as soon as `moment` has come."""
    process, began = start(*words, env=env), time.monotonic()
    try:
        while not moment():
            assert process.poll() is None, finish(process, began).output[-3000:]
            assert time.monotonic() - began < LEG_SECONDS, "the moment never came"
            time.sleep(0.005)
        pids = descendants(process.pid)
        for pid in [process.pid, *pids]:
            if alive([pid]):
                os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=30)
        seconds_until_gone(pids, GONE_SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def num_running(run: Path, step: int) -> int:
    """Durable groups of a step whose rollout goes on."""
    streams = list(run.glob(f"groups/step-{step:06d}.*.running.arrow"))
    return sum(holds_group(batch, row) for path in streams for batch in read_running(path) for row in range(len(batch)))


def saved_steps(run: Path) -> int:
    found = latest_checkpoint(run)
    return 0 if found is None else found[1].step


def durable_groups(run: Path, copy: Path) -> Counter[int]:
    """By step: finished training groups since the last checkpoint, counted in a copy of the stopped run's log."""
    shutil.copytree(run / "groups", copy / "groups")
    keys = GroupLogWriter(str(copy), incarnation=99).recover(0, Role.TRAIN, saved_steps(run))
    return Counter(key.group_id // PROMPTS for key in keys)


def check_recovered(run: Path, incarnation: int, owed: Counter[int]) -> None:
    """Every step that an incarnation ended took all groups that were durable before, and generated only the others."""
    rows = [row for row in read_rows(run / "metrics.jsonl") if row["incarnation"] == incarnation]
    steps = {row["step"]: row["rollout/num_recovered"] for row in rows if "rollout/num_recovered" in row}
    assert steps == {step: owed[step] for step in steps}


def test_a_checkpoint_is_exported_as_the_model_that_the_run_left(undisturbed: Path, root: Path) -> None:
    done = quorum("export", str(undisturbed), str(root / "exported"), env=environment(root / "peace"))
    assert done.code == 0, done.output[-3000:]
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (root / "exported" / name).read_bytes() == (undisturbed / "model" / name).read_bytes(), name
    with pytest.raises(ConfigError, match="exists: name a directory that does not"):
        export(str(undisturbed), root / "exported")
    with pytest.raises(DataError, match="no checkpoint after 2 steps; there are: 6, 8"):
        export(str(undisturbed), root / "other", step=2)


@pytest.mark.all
def test_a_rank_without_a_checkpoint_starts_again_from_the_first_step(undisturbed: Path, root: Path) -> None:
    env = environment(root / "early")
    (root / "early" / "die").write_text("0.1")
    done = quorum(*arguments(root / "unsaved", "checkpoint.every_steps=0"), env=env)
    assert done.code == 0, done.output[-3000:]
    assert "resumed after step 0" in done.output
    assert_same(root / "unsaved", undisturbed)


@pytest.mark.all
def test_out_of_memory_halves_the_budget_once_and_a_resume_knows(root: Path) -> None:
    run, env = root / "memory", environment(root / "small")
    (root / "small" / "oom1").touch()
    process, began = start(*arguments(run), env=env), time.monotonic()
    while not (run / "learned_budgets.json").exists():
        assert process.poll() is None and time.monotonic() - began < LEG_SECONDS, finish(process, began, 1).output
        time.sleep(0.1)
    (root / "small" / "oom2").touch()
    done = finish(process, began)
    assert done.code == 5, done.output[-3000:]
    assert "halved from 2048 to 1024" in done.output and "starts again (1 of at most 3 times)" in done.output
    assert "the micro-batch budget was halved before, to 1024: lower learner.max_tokens" in error_of(done)
    resumed = quorum("train", "--resume", str(run), env=env)
    assert resumed.code == 0, resumed.output[-3000:]
    assert "learner.max_tokens_per_micro_batch is 1024, not 2048" in resumed.output


@pytest.mark.all
def test_without_restarts_a_dead_rank_ends_the_run_by_name(root: Path) -> None:
    env = environment(root / "strict")
    (root / "strict" / "die").write_text("0")
    done = quorum(*arguments(root / "none", "learner.max_restarts=0"), env=env)
    assert done.code == 5, done.output[-3000:]
    assert "learner rank " in error_of(done) and "no restart of the learner is left" in error_of(done)


def error_of(done: Finished) -> str:
    [line] = [line for line in done.output.splitlines() if line.startswith("quorum: error:")]
    return line


def test_a_wrong_byte_in_any_file_of_the_learners_checkpoint_is_noticed(root: Path) -> None:
    (root / "model").mkdir()
    with Ranks(make_config(make_model(root / "model"), num_ranks=1)) as ranks:
        ranks.save(root / "saved", {"step": 1})
        files = [path for path in (root / "saved" / "learner").rglob("*") if path.is_file()]
        for file in [file for file in files if file.name != "manifest.json"]:
            whole = file.read_bytes()
            place = random.Random(SEED).randrange(len(whole))
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(LearnerError, match="is damaged.*write the name of an older checkpoint") as found:
                ranks.call(0, "load", str(root / "saved"))
            assert str(file) in str(found.value)
            file.write_bytes(whole)
        assert ranks.call(0, "load", str(root / "saved")) == {"step": 1}
    assert len(files) > 4
