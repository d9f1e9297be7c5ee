"""The correctness chain on one warm stack: what the learner holds is what every sampler holds and samples with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from orchestration.loop import TrainingLoop
from orchestration.preflight import preflight
from orchestration.registries import load_run_config
from orchestration.run_dir import RunDir
from orchestration.signals import StopSignals
from orchestration.training import open_loop
from orchestration.watch.display import Display
from tests.integration.run_helpers import seconds_until_gone

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]

PROBE = list(range(7, 39))
SCORE_SECONDS = 60
GONE_SECONDS = 5.0
"""After its end nothing of the run is alive for longer than this."""


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingLoop]:
    """Two samplers and two ranks, warm for the whole module."""
    directory = tmp_path_factory.mktemp("chain")
    overrides = [
        f"run.dir={directory / 'run'}",
        "run.num_steps=100",
        "rollout.prompts_per_step=8",
        "rollout.completions_per_prompt=8",
        "evaluation.data=[]",
        "report.audit=false",
    ]
    config = load_run_config("demo", overrides)
    checked = preflight(config, new_run=True)
    run_dir = RunDir.create(config)
    with StopSignals() as signals, Display(config, run_dir.path, live=False) as display:
        with open_loop(config, run_dir, checked, display, signals) as opened:
            pids = opened.stack.pids()
            opened.publish_start()
            yield opened
    run_dir.close()
    seconds_until_gone(pids, GONE_SECONDS)


def scores(loop: TrainingLoop) -> list[np.ndarray]:
    """Log-probabilities of one fixed probe on every sampler."""
    import ray

    refs = [sampler.actor.score.remote(PROBE) for sampler in loop.stack.pool.samplers]
    return ray.get(refs, timeout=SCORE_SECONDS)


def checksums(loop: TrainingLoop) -> dict[str, str]:
    assert loop.stack.learner is not None
    return loop.stack.learner.checksums(loop.sync.version)


def test_publishing_unchanged_weights_again_changes_no_bit(loop: TrainingLoop) -> None:
    weights, before = checksums(loop), scores(loop)
    synced = loop.sync.publish(loop.sync.version + 1)
    assert synced.num_checked_tensors == 2 * len(weights), "both samplers' bytes were compared with the learner's"
    assert checksums(loop) == weights
    for old, new in zip(before, scores(loop), strict=True):
        assert old.tobytes() == new.tobytes()


def test_after_a_step_all_samplers_hold_the_learners_new_bytes_and_agree_to_the_bit(loop: TrainingLoop) -> None:
    weights, before = checksums(loop), scores(loop)
    values = loop.step()
    changed = [name for name, checksum in checksums(loop).items() if checksum != weights[name]]
    assert len(changed) > len(weights) / 2, "the step changed the weights"
    assert values["sync/num_checked_tensors"] == 2 * len(weights)
    first, second = scores(loop)
    assert first.tobytes() == second.tobytes()
    assert first.tobytes() != before[0].tobytes()


def test_learner_and_samplers_agree_on_the_logprobs_of_new_tokens(loop: TrainingLoop) -> None:
    assert loop.step()["sync/logprob_gap_mean"] < 0.02
