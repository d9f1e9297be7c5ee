"""Which changes a resume refuses, allows, or allows with a note."""

import pytest

from configs.load import bit_differences, config_identity_hash, identity_differences
from configs.schema import RunConfig

TREE = {
    "run": {"dir": "runs/x"},
    "model": {"path": "/models/base"},
    "data": {"train": [{"path": "/data/a.jsonl"}]},
}


def config(**changes: object) -> RunConfig:
    """TREE with dotted changes, dots written as double underscores."""
    tree: dict = {name: dict(section) for name, section in TREE.items()}
    for dotted, value in changes.items():
        *sections, field = dotted.split("__")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[field] = value
    return RunConfig.model_validate(tree)


@pytest.mark.parametrize(
    "change",
    [
        {"run__seed": 1},
        {"model__path": "/models/other"},
        {"model__revision": "abc"},
        {"data__train": [{"path": "/data/b.jsonl"}]},
        {"data__shuffle": False},
        {"rollout__completions_per_prompt": 8},
        {"rollout__prompts_per_step": 8},
        {"rollout__temperature": 0.5},
        {"rollout__dtype": "float32"},
        {"voting__rule": "other"},
        {"voting__truncated": "vote"},
        {"learner__algorithm": "other"},
        {"learner__learning_rate": 1e-3},
        {"learner__kl": {"coefficient": 0.1}},
    ],
)
def test_what_changes_the_history_changes_the_identity(change: dict) -> None:
    old, new = config(), config(**change)
    assert config_identity_hash(old) != config_identity_hash(new)
    name = next(iter(change)).replace("__", ".")
    assert all(difference.startswith(name) for difference in identity_differences(old, new))
    assert identity_differences(old, new)


@pytest.mark.parametrize(
    "change",
    [
        {"run__dir": "elsewhere"},
        {"run__num_steps": 7},
        {"model__path": "/moved/to/base"},
        {"data__train": [{"path": "other/place/a.jsonl"}]},
        {"rollout__num_samplers": 4},
        {"voting__service__num_replicas": 3},
        {"learner__num_ranks": 2},
        {"learner__zero_stage": 3},
        {"checkpoint__every_steps": 1},
        {"cluster__device": "cpu"},
        {"deadlines__start_seconds": 1},
        {"report__tensorboard": False},
        {"evaluation__every_steps": 5},
    ],
)
def test_operational_changes_leave_the_identity(change: dict) -> None:
    old, new = config(), config(**change)
    assert config_identity_hash(old) == config_identity_hash(new)
    assert identity_differences(old, new) == []


def test_ranks_and_stages_are_allowed_but_end_bit_equality() -> None:
    new = config(learner__num_ranks=2, learner__zero_stage=3, rollout__num_samplers=3)
    assert bit_differences(config(), new) == ["learner.num_ranks", "learner.zero_stage"]


def test_the_identity_hash_is_the_same_in_every_process() -> None:
    assert config_identity_hash(config()) == config_identity_hash(config())
    assert len(config_identity_hash(config())) == 32
