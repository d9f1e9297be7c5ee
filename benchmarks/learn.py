"""`quorum bench learn`: one optimizer step of our learner beside one of TRL's GRPO trainer, on the same tensors.

Random Qwen2-shaped models; prompts of 12 tokens. "spread": 16 completions per prompt, of 77 tokens in the mean and at
most 192; "short": of 4 to 30. Each side is a process of its own with all cores, float32; they take turns, and medians
of the paired ratios are reported. TRL's micro-batch is the fastest of a few at 3 M parameters, its generation is a
look-up, and the gradient's norm is compared, so that both have done the same work. The bound is 6 x parameters x tokens
over the rate of (tokens x hidden) @ (hidden x 4 hidden), measured before every pair; tokens are those of prompts and
completions, a prompt's for each of its completions although ours may compute it once, without padding. Peak memory is
how far a side's resident memory grows from before its model is loaded.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.child import Child
from benchmarks.learn_work import Work, bound_seconds
from benchmarks.models import make_untrained_model
from benchmarks.results import BenchResult, Median
from quorum.errors import StageError

START_SECONDS, STEP_SECONDS = 300.0, 300.0
K = 16
SAME_NORM = 1e-3
"""Largest relative difference of the two sides' gradient norms in the first step."""
RATE_TOKENS, RATE_SECONDS = 2048, 0.3


@dataclass(frozen=True, slots=True)
class Case:
    """A model and the work it is measured on."""

    name: str
    hidden: int
    layers: int
    kind: str
    prompts: int


CASES = (
    Case("3m", 256, 4, "spread", 32),
    Case("3m_short", 256, 4, "short", 32),
    Case("1m", 128, 5, "spread", 16),
    Case("10m", 384, 6, "spread", 4),
    Case("50m", 640, 10, "spread", 1),
)
"""The first two are the whole workload; the others take fewer prompts, so that they end in time. That costs the larger
models some of their share: the optimizer's pass over all weights is spread over fewer tokens."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One repeat of one case."""

    ours: float
    """Seconds."""
    trl: float
    bound: float


def run_learn(repeats: int, seed: int) -> BenchResult:
    """Measure."""
    values: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="quorum-bench-") as scratch:
        for case in CASES:
            rows = values.get("trl_rows_3m") if case.kind == "spread" else None
            values |= _run_case(case, Path(scratch) / case.name, repeats, seed, rows)
    return BenchResult("learn", headline(values), seed=seed, repeats=repeats)


def headline(values: dict[str, object]) -> dict[str, object]:
    """The figures under the names they are compared by, in front of all others."""
    named = {"over_trl": values["over_trl_3m"], "over_trl_short": values["over_trl_3m_short"]}
    return named | values


def figures(name: str, pairs: Sequence[Pair], num_tokens: int) -> dict[str, object]:
    """Medians over the repeats; ratios are paired."""
    return {
        f"over_trl_{name}": Median(pair.trl / pair.ours for pair in pairs),
        f"share_of_bound_{name}": Median(pair.bound / pair.ours for pair in pairs),
        f"tokens_per_second_{name}": Median(num_tokens / pair.ours for pair in pairs),
        f"trl_tokens_per_second_{name}": Median(num_tokens / pair.trl for pair in pairs),
    }


def _run_case(case: Case, directory: Path, repeats: int, seed: int, rows: object) -> dict[str, object]:
    model = make_untrained_model(directory, hidden=case.hidden, layers=case.layers, seed=seed)
    work = Work(case.kind, case.prompts, K, seed)
    threads = os.cpu_count() or 1
    sides = {name: _start(name, model, work, threads, rows) for name in ("trl", "ours")}
    try:
        ready = {name: side.answer("start", START_SECONDS) for name, side in sides.items()}
        first = {name: side.ask({"do": "step"}, STEP_SECONDS) for name, side in sides.items()}
        _check_same(case, first["ours"]["grad_norm"], first["trl"]["grad_norm"])
        parameters = _num_parameters(model)
        pairs = []
        for repeat in range(repeats):
            flops = matmul_flops(case.hidden, threads)
            turn = sorted(sides, reverse=repeat % 2 == 0)
            last = {name: sides[name].ask({"do": "step"}, STEP_SECONDS) for name in turn}
            bound = bound_seconds(parameters, work.num_tokens(), flops)
            pairs.append(Pair(last["ours"]["seconds"], last["trl"]["seconds"], bound))
    finally:
        for side in sides.values():
            side.stop()
    found = figures(case.name, pairs, work.num_tokens())
    found |= {f"{prefix}peak_mib_{case.name}": last[name]["peak_bytes"] >> 20 for name, prefix in _PREFIXES.items()}
    found[f"trl_rows_{case.name}"] = ready["trl"]["rows"]
    print(_line(case, parameters, work, found), flush=True)
    return found


_PREFIXES = {"ours": "", "trl": "trl_"}


def _start(name: str, model: Path, work: Work, threads: int, rows: object) -> Child:
    env = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    side = Child(f"the side {name!r}", "benchmarks.learn_sides", env)
    side.tell({"side": name, "model": str(model), "work": asdict(work), "threads": threads, "rows": rows})
    return side


def _check_same(case: Case, ours: float, trl: float) -> None:
    if abs(ours - trl) > SAME_NORM * trl:
        raise StageError(
            f"{case.name}: the gradient's norm is {ours:.6g} here and {trl:.6g} with TRL, on the same tensors: they do "
            "not compute the same step, so their times must not be compared"
        )


def matmul_flops(hidden: int, threads: int) -> float:
    """Operations per second of (2048 x hidden) @ (hidden x 4 hidden) in float32: median over 0.3 s."""
    import torch

    torch.set_num_threads(threads)
    a, b = torch.randn(RATE_TOKENS, hidden), torch.randn(hidden, 4 * hidden)
    out = torch.empty(RATE_TOKENS, 4 * hidden)
    times: list[float] = []
    end = time.perf_counter() + RATE_SECONDS
    while time.perf_counter() < end or len(times) < 5:
        began = time.perf_counter()
        torch.mm(a, b, out=out)
        times.append(time.perf_counter() - began)
    return 8 * RATE_TOKENS * hidden**2 / statistics.median(times)


def _num_parameters(model: Path) -> int:
    from safetensors import safe_open

    with safe_open(model / "model.safetensors", "np") as file:
        return sum(file.get_tensor(name).size for name in file.keys())


def _line(case: Case, parameters: int, work: Work, found: dict[str, object]) -> str:
    name = case.name
    return (
        f"{name}: {parameters / 1e6:.1f} M parameters, {work.prompts} x {work.k} {work.kind} completions, "
        f"{work.num_tokens():,} tokens ({work.padded_share():.0%} padding if padded): "
        f"{found[f'tokens_per_second_{name}']:,.0f} tokens/s, {found[f'share_of_bound_{name}']:.2f} of the bound, "
        f"peak memory {found[f'peak_mib_{name}']:,} MiB; TRL ({found[f'trl_rows_{name}']} rows per micro-batch) "
        f"{found[f'trl_tokens_per_second_{name}']:,.0f} tokens/s, {found[f'trl_peak_mib_{name}']:,} MiB; "
        f"{found[f'over_trl_{name}']:.2f} times TRL"
    )
