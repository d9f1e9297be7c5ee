"""A batch's plan becomes one order per rank."""

import subprocess
import sys

from configs.schema import RunConfig
from learner.batch import plan_micro_batches
from learner.orders import plan_step
from quorum.types import TrainingBatch
from tests.builders import make_group, make_receipt, make_scored


def test_the_driver_side_of_the_learner_loads_no_heavy_library():
    code = (
        "import learner.group, learner.registry, sys; "
        "heavy = {'torch', 'ray', 'deepspeed', 'transformers', 'vllm'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_number_of_tokens_counts_trained_completions_only():
    scored = [make_scored(make_group([[5, 6], [7]], group_id=i), [1, 0], train_mask=[True, i == 0]) for i in range(2)]
    receipts = tuple(make_receipt(s) for s in scored)
    batch = TrainingBatch(step=0, branch=0, groups=tuple(scored), receipts=receipts)
    assert batch.num_tokens == 5
    assert batch.num_completions == 3
    assert plan_micro_batches(receipts, 2, 100).num_tokens == 5 + 3 * 3


def config_for(**learner):
    return RunConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "model": {"path": "unused"},
            "data": {"train": [{"path": "unused.jsonl"}]},
            "learner": learner,
        }
    )


def batch_of(train_masks):
    """A group of two completions per mask, of 2 + i and 1 tokens."""
    scored = [
        make_scored(make_group([[5] * (2 + i), [7]], group_id=i), [1, 0], train_mask=mask)
        for i, mask in enumerate(train_masks)
    ]
    return TrainingBatch(step=0, branch=0, groups=tuple(scored), receipts=tuple(map(make_receipt, scored)))


def test_a_step_s_groups_are_split_evenly_and_in_order_between_the_updates_of_an_epoch():
    """Four updates in two epochs are two parts; the third group has nothing to train on and goes to neither."""
    masks = [[True, True], [False, True], [False, False], [True, False], [True, True], [True, True]]
    planned = plan_step(batch_of(masks), config_for(num_ranks=2, updates_per_step=4, epochs_per_step=2))
    assert len(planned.plans) == 2
    for orders in planned.orders:
        assert orders.num_epochs == 2
        shares = [(share.positions, share.num_tokens, share.num_completions) for share in orders.updates]
        assert shares == [((0, 1, 3), 3 + 1 + 5, 4), ((4, 5), 7 + 8, 4)]
    rows = [
        sorted(
            (row.group, row.completion)
            for orders in planned.orders
            for part in orders.updates[i].micro_batches
            for row in part
        )
        for i in range(2)
    ]
    assert rows == [[(0, 0), (0, 1), (1, 1), (3, 0)], [(4, 0), (4, 1), (5, 0), (5, 1)]]


def test_more_updates_than_groups_make_one_per_group_and_nothing_to_train_on_none():
    planned = plan_step(batch_of([[True, True]] * 2), config_for(updates_per_step=8))
    assert [share.positions for share in planned.orders[0].updates] == [(0,), (1,)]
    assert plan_step(batch_of([[False, False]]), config_for()) is None
