"""A batch's plan becomes one order per rank."""

import subprocess
import sys

from learner.batch import plan_micro_batches
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
