"""A whole run under several remedies at once: what it stores, and that it is one history whatever ends it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from orchestration.checkpoint import latest_checkpoint, read_labels
from orchestration.cli.main import load_command
from orchestration.watch.metrics import read_metrics
from tests.integration.run_helpers import (
    Finished,
    descendants,
    history,
    quorum,
    seconds_until_gone,
    start,
    wait_for_ledger,
)
from tests.integration.test_label_sources import arguments, rows_of
from tests.integration.test_run import write_data

pytestmark = [pytest.mark.stack, pytest.mark.all, pytest.mark.timeout(600)]

STEPS, PROMPTS, K, DELTA = 4, 8, 8, 0.25


def remedied(run: Path, data: Path) -> list[str]:
    """The same prompts in every step, so that labels have a past; RESTRAIN's rule, an entropy filter, a moving gate."""
    return arguments(
        run,
        data,
        STEPS,
        f"data.train=[{{path: {data / 'train.jsonl'}, size: {PROMPTS}}}]",
        f"rollout.prompts_per_step={PROMPTS}",
        f"rollout.completions_per_prompt={K}",
        f"voting.rule={{name: restrain, options: {{kappa: 4, delta: {DELTA}}}}}",
        "voting.train.entropy_iqr=0.25",
        "voting.gate.max_agreement={start: 1.0, end: 0.9, steps: 3}",
        "voting.prompts.flips={window: 2, threshold: 0.4, skip_share: 0.0, minority_votes: 0.1}",
        "learner.learning_rate=1e-3",
        "checkpoint.every_steps=1",
        "checkpoint.keep=9",
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("remedies")
    write_data(directory / "data")
    return directory


@pytest.fixture(scope="module")
def whole(root: Path) -> Finished:
    done = quorum(*remedied(root / "whole", root / "data"))
    assert done.code == 0, done.output[-3000:]
    return done


def test_groups_are_weighed_penalised_filtered_and_their_labels_remembered(whole: Finished, root: Path) -> None:
    rows = [row for row in rows_of(root / "whole") if row["rewards"] is not None]
    weights, penalties = {row["weight"] for row in rows}, {row["penalty"] for row in rows}
    assert 1.0 in weights and len(weights) > 1 and all(0 < weight <= 1 for weight in weights)
    assert penalties == {0.0, DELTA}
    for row in rows:
        if row["penalty"]:
            assert row["pseudo_label"] is None and not any(row["rewards"]) and row["end_state"] == "trained"
        assert len(row["entropies"]) == K
    assert any(sum(row["train_mask"]) < K for row in rows)
    found = latest_checkpoint(root / "whole")
    assert found is not None
    labels = read_labels(found[0])
    assert labels and all(len(flips) <= 20 and len(flips) < len(agreements) for _, flips, agreements in labels.values())
    logged = [row for row in read_metrics(root / "whole").to_pylist() if row["step"] < STEPS]
    assert any(row["vote/weight_mean"] < 1 for row in logged)
    assert any(row["vote/penalised_share"] > 0 for row in logged)


def test_a_replay_knows_the_past_of_the_prompts(
    whole: Finished, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_command("replay").main([str(root / "whole"), "--steps", f"1..{STEPS - 1}"], standalone_mode=False)
    result = json.loads(capsys.readouterr().out.splitlines()[-1].removeprefix("RESULT "))
    assert result["equal"] is True and result["weights_compared"] is True
    assert result["num_differing_tensors"] == result["num_differing_votes"] == 0 < result["num_tensors"]


def test_killed_and_resumed_it_is_the_same_history(whole: Finished, root: Path) -> None:
    run = root / "killed"
    process = start(*remedied(run, root / "data"))
    wait_for_ledger(run, 2 * PROMPTS, 200)
    pids = descendants(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=20)
    seconds_until_gone(pids, 20)
    done = quorum("train", "--resume", str(run))
    assert done.code == 0, done.output[-3000:]
    assert history(run) == history(root / "whole")
