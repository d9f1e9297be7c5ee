"""The rollout bench on samplers whose engine is simulated: a step's groups come back whole, and the same again."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("ray")
pytest.importorskip("transformers")

from benchmarks.rollout import draw, figures, make_config, model_settings, sampler_pool  # noqa: E402

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]


def test_a_step_is_drawn_whole_and_its_tokens_do_not_depend_on_the_number_of_samplers(tmp_path: Path) -> None:
    words = [word for word in model_settings("tiny", tmp_path / "model") if "load_format" not in word]
    words += ["rollout.engine.name=fake", "rollout.prompts_per_step=4", "rollout.completions_per_prompt=3"]
    config = make_config(tmp_path, words, 2, 1, 0)
    with sampler_pool(config) as (pool, order):
        assert len(pool.alive) == 2
        steps = [draw(pool, config, order, step) for step in (0, 0, 1)]
    assert [step.num_completions for step in steps] == [12, 12, 12]
    assert steps[0].num_tokens == steps[1].num_tokens > 0, "the same groups from the same seeds"
    assert figures({2: steps})["step_seconds_2"] > 0
