"""Checkpoints of other ranks or another ZeRO stage: weights, Adam's moments and the count of updates carry over."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.integration.learner_processes import Ranks, make_config, make_model  # noqa: E402
from tests.integration.test_learner_stack import batches, distance, read_weights  # noqa: E402

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

LAYOUTS = {"0x1": (0, 1), "0x2": (0, 2), "1x2": (1, 2), "2x1": (2, 1), "2x2": (2, 2), "3x1": (3, 1), "3x2": (3, 2)}
"""(ZeRO stage, ranks)"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


def config_of(model, layout, **section):
    zero_stage, num_ranks = LAYOUTS[layout]
    return make_config(model, num_ranks=num_ranks, zero_stage=zero_stage, warmup_steps=3, **section)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    """By layout and precision: a checkpoint after two steps, and the weights after two and after four steps."""
    made = {}

    def save(layout, precision):
        if (layout, precision) not in made:
            directory = tmp_path_factory.mktemp(f"{layout}-{precision}")
            with Ranks(config_of(model, layout, precision=precision)) as ranks:
                for step, batch in enumerate(batches(4)):
                    if step == 2:
                        ranks.save(directory, {"step": 2})
                        middle = ranks.weights(directory / "middle")
                    ranks.step(batch)
                made[layout, precision] = directory, middle, ranks.weights(directory / "end")
        return made[layout, precision]

    return save


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2x2", "2x1"),
        ("2x1", "2x2"),
        ("3x2", "3x1"),
        ("3x1", "3x2"),
        ("2x2", "3x2"),
        ("0x2", "1x2"),
        ("3x2", "0x1"),
    ],
)
def test_another_layout_takes_over_and_continues_like_the_unbroken_run(model, saved, tmp_path, old, new):
    """After two more steps the weights agree, measured by how far those two steps moved them: without the moments or
    the count of updates Adam would move them by another amount."""
    directory, middle, end = saved(old, "float32")
    before = sorted(path.name for path in directory.iterdir())
    with Ranks(config_of(model, new)) as ranks:
        assert ranks.all("load", str(directory))[0] == {"step": 2}
        assert torch.equal(ranks.weights(tmp_path / "loaded"), middle)
        for batch in batches(4)[2:]:
            ranks.step(batch)
        weights = ranks.weights(tmp_path / "model")
    assert distance(weights, end, middle) <= 1e-4
    assert sorted(path.name for path in directory.iterdir()) == before


def test_float32_masters_carry_over_under_bfloat16(model, saved, tmp_path):
    directory, middle, end = saved("3x2", "bfloat16")
    with Ranks(config_of(model, "2x1", precision="bfloat16")) as ranks:
        ranks.all("load", str(directory))
        assert torch.equal(ranks.weights(tmp_path / "loaded"), middle)
        for batch in batches(4)[2:]:
            ranks.step(batch)
        assert distance(ranks.weights(tmp_path / "model"), end, read_weights(model)) <= 0.02


def test_adapters_and_a_critic_carry_over(model, tmp_path):
    first, second = batches(2)
    section = {"lora": {"rank": 4}, "algorithm": {"name": "ppo"}}
    with Ranks(config_of(model, "2x2", **section)) as ranks:
        ranks.step(first)
        ranks.save(tmp_path)
        middle = ranks.weights(tmp_path / "middle")
        value_loss = ranks.step(second).sums["value_loss"]
        end = ranks.weights(tmp_path / "end")
    with Ranks(config_of(model, "3x1", **section)) as ranks:
        ranks.all("load", str(tmp_path))
        assert ranks.step(second).sums["value_loss"] == pytest.approx(value_loss, rel=1e-4)
        assert distance(ranks.weights(tmp_path / "resumed"), end, middle) <= 1e-4
