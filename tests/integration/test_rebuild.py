"""Ranks that begin another run in their processes are fresh ranks, under every ZeRO stage: same sums, same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from configs.schema import RunConfig  # noqa: E402
from learner.rank import RankSettings  # noqa: E402
from quorum.errors import WeightSyncError  # noqa: E402
from tests.integration.learner_processes import Ranks, make_config, make_model  # noqa: E402
from tests.integration.test_learner_stack import batches  # noqa: E402

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]
WITH_REFERENCE = {"kl": {"place": "loss", "coefficient": 0.1}}
WITH_ADAPTERS = {"lora": {"rank": 4}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


def rebuild(ranks: Ranks, config: RunConfig) -> None:
    """As `LearnerGroup.rebuild` does."""
    count = config.learner.num_ranks
    ranks.all("rebuild", each=[(RankSettings(config, rank, count, "cpu", True),) for rank in range(count)])
    ranks.config = config


@pytest.mark.parametrize(
    ("zero_stage", "before", "after"),
    [(0, {}, WITH_REFERENCE), (2, WITH_REFERENCE, WITH_ADAPTERS), (3, WITH_REFERENCE, WITH_REFERENCE)],
)
def test_ranks_begin_another_run_as_fresh_ones(
    model: Path, tmp_path: Path, zero_stage: int, before: dict[str, Any], after: dict[str, Any]
) -> None:
    first, second = batches(2)
    wanted = make_config(model, zero_stage=zero_stage, learning_rate=3e-3, warmup_steps=3, **after)
    with Ranks(wanted) as ranks:
        sums = [repr(ranks.step(batch)) for batch in (first, second)]
        weights = ranks.weights(tmp_path / "fresh")
    with Ranks(make_config(model, zero_stage=zero_stage, **before)) as ranks:
        ranks.step(second)
        ranks.all("publish", 7, 0)
        other = ranks.weights(tmp_path / "other")
        rebuild(ranks, wanted)
        with pytest.raises(WeightSyncError, match="version 7 is not held"):
            ranks.call(0, "checksums", 7)
        again = [repr(ranks.step(batch)) for batch in (first, second)]
        rebuilt = ranks.weights(tmp_path / "rebuilt")
    assert again == sums
    assert torch.equal(rebuilt, weights) and not torch.equal(rebuilt, other)
