"""One whole `quorum train` on the device, sampler and learner sharing it, with what its steps measured.

The demo's model: it shows that rollout, vote, update and sync work together and what a step's parts cost when the model
costs next to nothing. Every published tensor is compared with the learner's.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestration.cli.result import result_line
from orchestration.watch.metrics import read_metrics
from quorum.errors import StageError

RUN_SECONDS = 420.0
STEPS, TINY_STEPS = 16, 2
MEASURED = (
    "time/step_seconds",
    "time/rollout_seconds",
    "time/vote_seconds",
    "time/learn_seconds",
    "time/sync_seconds",
    "time/bubble_share",
    "rollout/tokens_per_second",
    "learn/tokens_per_second",
)
"""Medians of these are told, of every step but the first."""


def main() -> None:
    """Train and print the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="2 steps of 8 prompts x 4")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quorum-train-", ignore_cleanup_errors=True) as scratch:
        directory = Path(scratch) / "run"
        command = [sys.executable, "-m", "orchestration", *words(directory, options.device, options.tiny)]
        try:
            done = subprocess.run(command, timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise StageError(f"quorum train did not end within {RUN_SECONDS:.0f} s") from error
        if done.returncode:
            raise StageError(f"quorum train ended with {done.returncode} (above)")
        rows = read_metrics(directory).to_pylist()
    print(result_line("train", step_figures(rows), seed=0, repeats=1), flush=True)


def words(directory: Path, device: str, is_tiny: bool) -> list[str]:
    """Of `quorum`."""
    found = ["train", "demo", f"run.dir={directory}", f"cluster.device={device}", "sync.verify_every=1"]
    found += ["rollout.num_samplers=1", "learner.num_ranks=1", "evaluation.data=[]", "report.tensorboard=false"]
    found += [f"run.num_steps={TINY_STEPS if is_tiny else STEPS}", "report.audit=false"]
    if device == "cuda":
        found += ["cluster.colocate=true", "rollout.dtype=bfloat16"]
    if is_tiny:
        found += ["rollout.prompts_per_step=8", "rollout.completions_per_prompt=4"]
    return found


def step_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of a run's metric rows; the first step, in which everything is new, is left out of the medians."""
    steps = [row for row in rows if row.get("learn/num_updates") is not None]
    updated = [row for row in steps if row["learn/num_updates"]]
    figures: dict[str, Any] = {
        "num_steps": len(steps),
        "num_updates": sum(row["learn/num_updates"] for row in steps),
        "num_checked_tensors": sum(row.get("sync/num_checked_tensors") or 0 for row in steps),
        "logprob_gap_max": max(map(_gap, updated), default=math.inf),
        "agreement_first": steps[0].get("vote/agreement_mean") if steps else None,
        "agreement_last": steps[-1].get("vote/agreement_mean") if steps else None,
    }
    for name in MEASURED:
        values = [row[name] for row in steps[1:] if row.get(name) is not None]
        if values:
            figures[name.partition("/")[2] if name.startswith("time/") else name] = statistics.median(values)
    return figures


def _gap(row: Mapping[str, Any]) -> float:
    """The log-probability gap of a step with updates; infinite where none was measured, which must meet no bound."""
    gap = row.get("sync/logprob_gap_mean")
    return math.inf if gap is None or math.isnan(gap) else float(gap)


if __name__ == "__main__":
    main()
