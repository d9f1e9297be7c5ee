"""What the durable log costs per group when groups share records: `python -m benchmarks.log_records [DIR]`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from orchestration.group_log import GroupLogWriter
from quorum.types import Completion, Role, RolloutGroup, VersionSpan

NUM_GROUPS = 64
SHAPES = ((16, 4), (32, 1000))
"""Completions of a group, and tokens of each."""
PER_RECORD = (1, 4, 16)


def make_group(number: int, completions: int, tokens: int) -> RolloutGroup:
    rng = np.random.default_rng(number)
    drawn = tuple(
        Completion(
            index=index,
            token_ids=rng.integers(0, 150_000, tokens).astype(np.int32),
            text="word" * tokens,
            rollout_logprobs=rng.standard_normal(tokens).astype(np.float32),
            finish_reason="stop",
            spans=(VersionSpan(0, 0),),
        )
        for index in range(completions)
    )
    prompt = np.arange(100, dtype=np.int32)
    return RolloutGroup(
        group_id=number,
        prompt_id=str(number),
        branch=0,
        role=Role.TRAIN,
        data_source="bench",
        prompt_token_ids=prompt,
        prompt_text="prompt",
        completions=drawn,
    )


def main(directory: Path | None = None) -> None:
    """Print wall and CPU milliseconds per group by shape and groups in a record; the disk is that of `directory`."""
    for completions, tokens in SHAPES:
        groups = [make_group(number, completions, tokens) for number in range(NUM_GROUPS)]
        for size in PER_RECORD:
            with tempfile.TemporaryDirectory(dir=directory) as folder:
                log = GroupLogWriter(folder, 0)
                wall, cpu = time.perf_counter(), time.process_time()
                for start in range(0, NUM_GROUPS, size):
                    log.append_all(0, *groups[start : start + size])
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                log.close()
            each = f"{wall / NUM_GROUPS * 1e3:.2f} ms per group, {cpu / NUM_GROUPS * 1e3:.2f} of CPU"
            print(f"{completions} x {tokens} tokens, {size} groups in a record: {each}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
