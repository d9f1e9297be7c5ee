"""A run whose samplers, engines and voting replicas are killed has the history of one that nothing disturbed, bit for
bit; overlapped with learning, it has every group once and no token too old.

What is hit when is drawn by a seed that stands in the test's name; CHAOS_SEED=N draws it again.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from orchestration.ledger import read_ledger
from orchestration.watch.jsonl import read_rows
from quorum.types import EndState
from tests.integration.chaos import Chaos, processes, shared_memory
from tests.integration.exact_runs import PROMPTS, STEPS, arguments, assert_same, environment
from tests.integration.run_helpers import Finished, descendants, finish, quorum, seconds_until_gone, start

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

WHO, PHASES = ("sampler", "rank0", "rank1"), ("init", "start", "update", "finish")
"""See tests.integration.transfer_saboteur, which must not be imported here."""
SEED = int(os.environ.get("CHAOS_SEED") or time.time())
FAST = ("deadlines.rollout_seconds=30", "deadlines.probe_seconds=5", "rollout.restart.max_backoff_seconds=2")
GONE_SECONDS = 15.0
MOST_SECONDS = 600.0


def disturbed(run: Path, words: list[str], chaos: dict[str, object], folder: Path) -> tuple[Finished, Chaos]:
    """Run to the end under blows, the first one once groups come in; nothing of it is left afterwards."""
    shared = shared_memory()
    process, began = start(*words, env=environment(folder)), time.monotonic()
    blows = Chaos(process.pid, run, **chaos)  # type: ignore[arg-type]
    seen: set[int] = set()
    try:
        while not list(run.glob("groups/*.running.arrow")):
            assert process.poll() is None, finish(process, began).output[-3000:]
            assert time.monotonic() - began < MOST_SECONDS
            time.sleep(0.1)
        blows.start()
        while process.poll() is None and time.monotonic() - began < MOST_SECONDS:
            seen |= set(descendants(process.pid))
            time.sleep(0.2)
    finally:
        blows.stop()
        done = finish(process, began, 30)
    seconds_until_gone([pid for pid in seen if psutil.pid_exists(pid)], GONE_SECONDS)
    assert not shared_memory() - shared, f"left behind: {shared_memory() - shared}"
    assert done.code == 0, f"{blows.done}\n{done.output[-4000:]}"
    return done, blows


@pytest.mark.parametrize("seed", [SEED])
def test_kills_of_samplers_engines_and_replicas_leave_the_history_of_a_calm_run(
    undisturbed: Path, tmp_path: Path, seed: int
) -> None:
    kinds = ("sampler", "engine", "voter")
    words = arguments(tmp_path / "run", "rollout.num_samplers=2", *FAST)
    chaos = {"kinds": kinds, "seed": seed, "pause": (2.0, 6.0), "most": 5}
    done, blows = disturbed(tmp_path / "run", words, chaos, tmp_path / "sabotage")
    assert len(blows.done) >= 4, blows.done
    assert_same(tmp_path / "run", undisturbed)
    assert "quarantined" not in done.output
    if blows.counts["sampler"] + blows.counts["engine"]:
        assert "is lost: " in done.output and "another takes its place" in done.output


@pytest.mark.all
@pytest.mark.parametrize("seed", [SEED])
def test_hangs_and_changes_of_number_leave_the_history_of_a_calm_run(
    undisturbed: Path, tmp_path: Path, seed: int
) -> None:
    words = arguments(tmp_path / "run", "rollout.num_samplers=2", *FAST)
    chaos = {"kinds": ("hang", "scale", "engine"), "seed": seed, "pause": (3.0, 8.0), "most": 6}
    _, blows = disturbed(tmp_path / "run", words, chaos, tmp_path / "sabotage")
    assert len(blows.done) >= 4, blows.done
    assert_same(tmp_path / "run", undisturbed)


@pytest.mark.parametrize("seed", [SEED])
def test_overlapped_every_group_ends_once_and_no_token_is_too_old(tmp_path: Path, seed: int) -> None:
    overlap = ("rollout.max_off_policy_steps=1", "rollout.carried_groups=8", "learner.importance.mode=truncate")
    words = arguments(tmp_path / "run", "rollout.num_samplers=2", *overlap, *FAST)
    chaos = {"kinds": ("sampler", "engine"), "seed": seed, "pause": (2.0, 6.0), "most": 2}
    disturbed(tmp_path / "run", words, chaos, tmp_path / "sabotage")
    rows = read_ledger(tmp_path / "run")
    assert len(rows) == len({row.group_id for row in rows}) == STEPS * PROMPTS
    assert {row.end_state for row in rows} <= {EndState.TRAINED, EndState.NO_LABEL}
    assert set(Counter(row.step for row in rows).values()) == {PROMPTS}
    assert all(row.step - min(row.versions) <= 1 for row in rows)
    metrics = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert max(row["rollout/staleness_max"] for row in metrics if "rollout/staleness_max" in row) == 1


@pytest.mark.all
def test_too_few_samplers_save_a_checkpoint_and_say_so_and_a_resume_goes_on(undisturbed: Path, tmp_path: Path) -> None:
    run, env = tmp_path / "run", environment(tmp_path / "sabotage")
    words = arguments(run, "rollout.restart.max_restarts=0", "checkpoint.every_steps=0", *FAST)
    process, began = start(*words, env=env), time.monotonic()
    while len(read_rows(run / "ledger.jsonl")) < 2 * PROMPTS:
        assert process.poll() is None and time.monotonic() - began < MOST_SECONDS
        time.sleep(0.1)
    [engine] = processes(process.pid, "engine")
    engine.kill()
    done = finish(process, began)
    assert done.code == 5, done.output[-3000:]
    assert "0 samplers are left, rollout.min_samplers is 1, and none will come" in done.output
    saved = json.loads(
        (run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip() / "state.json").read_text()
    )
    assert saved["step"] >= 2
    resumed = quorum("train", "--resume", str(run), env=env)
    assert resumed.code == 0, resumed.output[-3000:]
    assert_same(run, undisturbed)


def directed(run: Path, folder: Path, kills: tuple[str, ...], wait_rows: int) -> Finished:
    """A run in which each of these dies at its moment of a transfer, one after the other."""
    words = arguments(run, "rollout.num_samplers=2", "sync.bucket_mib=1", "sync.join_seconds=10", *FAST)
    plugins = "run.plugins=[tests.integration.saboteur,tests.integration.transfer_saboteur]"
    env = environment(folder)
    if not wait_rows:
        for kill in kills:
            (folder / kill).touch()
    words += [plugins, "deadlines.sync_seconds=20", "learner.max_restarts=9"]
    process, began = start(*words, env=env), time.monotonic()
    for kill in kills if wait_rows else ():
        known = len(read_rows(run / "ledger.jsonl"))
        while len(read_rows(run / "ledger.jsonl")) < known + wait_rows:
            assert process.poll() is None, finish(process, began).output[-3000:]
            assert time.monotonic() - began < MOST_SECONDS
            time.sleep(0.05)
        (folder / kill).touch()
        while not (folder / f"taken-{kill}").exists():
            assert process.poll() is None, finish(process, began).output[-3000:]
            time.sleep(0.05)
    done = finish(process, began, MOST_SECONDS)
    assert done.code == 0, done.output[-4000:]
    assert all((folder / f"taken-{kill}").exists() for kill in kills)
    return done


def test_whoever_dies_in_a_weight_transfer_the_history_is_that_of_a_calm_run(undisturbed: Path, tmp_path: Path) -> None:
    kills = ("sampler-update", "rank1-start", "rank0-finish")
    directed(tmp_path / "run", tmp_path / "sabotage", kills, wait_rows=PROMPTS)
    assert_same(tmp_path / "run", undisturbed)


@pytest.mark.all
@pytest.mark.parametrize("phase", PHASES)
def test_deaths_in_every_phase_of_a_transfer_change_nothing(undisturbed: Path, tmp_path: Path, phase: str) -> None:
    kills = tuple(f"{who}-{phase}" for who in WHO)
    directed(tmp_path / "run", tmp_path / "sabotage", kills, wait_rows=0 if phase == "init" else PROMPTS)
    assert_same(tmp_path / "run", undisturbed)
