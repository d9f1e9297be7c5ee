"""`quorum bench vote`: how many answers per second are voted on, and what an answer that hangs costs the others.

512 prompts x 32 completions of about 300 characters. "cold" is with nothing remembered, "warm" the same groups again.
The loop that math-verify is compared with does what other systems do: it calls math-verify on every completion against
the majority, one after the other. What the demo waits for its votes is measured in a run of the demo.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import BenchResult, Median
from benchmarks.vote_groups import HangingMathVerify, make_groups, with_hanging
from configs.schema import Plugin, VotingSection
from quorum.registry import Entry
from quorum.types import RolloutGroup, Tally
from voting.background import each
from voting.equivalence import EQUIVALENCES, MathVerifyOptions
from voting.tallier import Tallier

PROMPTS, K = 512, 32
LOOP_GROUPS = 24
"""Groups that the plain loop is timed on; its rate does not depend on how many."""
OPEN_GROUPS = 64
HANGING_SHARE = 0.01
HANGING_WORKERS = 2
DEMO_STEPS = 12


@dataclass(frozen=True, slots=True)
class Rates:
    """Answers per second of one equivalence."""

    cold: float
    warm: float


def run_vote(repeats: int, seed: int, *, with_demo: bool = True) -> BenchResult:
    """Measure."""
    integers = make_groups(PROMPTS, K, seed, mathematical=False)
    answers = make_groups(PROMPTS, K, seed, mathematical=True)
    figures: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        figures.setdefault(name, []).append(value)

    for repeat in range(repeats):
        for name, groups in (("exact", integers), ("numeric", integers), ("math_verify", answers)):
            for workers in (1, 2) if name == "math_verify" else (1,):
                rates = _rates(groups, name, workers)
                note(f"{name}_per_second_cold_{workers}", rates.cold)
                note(f"{name}_per_second_warm_{workers}", rates.warm)
        loop = _loop_rate(answers[:LOOP_GROUPS])
        note("loop_per_second", loop)
        for workers in (1, 2):
            note(f"math_verify_over_loop_{workers}", figures[f"math_verify_per_second_cold_{workers}"][-1] / loop)
        hanging = _hanging(answers, seed + repeat)
        note("hanging_share_of_rate", hanging[0])
        note("replace_milliseconds", hanging[1])
        note("replace_milliseconds_max", hanging[2])
        print(f"repeat {repeat + 1}: " + ", ".join(f"{name} {values[-1]:,.4g}" for name, values in figures.items()))
    medians: dict[str, object] = {name: Median(values) for name, values in figures.items()}
    medians["math_verify_over_loop"] = medians["math_verify_over_loop_1"]
    medians["exact_per_second"] = medians["exact_per_second_cold_1"]
    if with_demo:
        medians["share_of_step"] = _share_of_step(seed)
    return BenchResult("vote", medians, seed=seed, repeats=repeats)


def _section(equivalence: str, workers: int) -> VotingSection:
    return VotingSection(equivalence=Plugin(name=equivalence), service={"num_workers": workers})


def _rates(groups: Sequence[RolloutGroup], equivalence: str, workers: int) -> Rates:
    num_answers = sum(len(group.completions) for group in groups)
    tallier = Tallier(_section(equivalence, workers))
    tallier.start()
    try:
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            asyncio.run(each(groups, tallier.tally, OPEN_GROUPS))
            seconds.append(time.perf_counter() - began)
    finally:
        tallier.stop()
    return Rates(num_answers / seconds[0], num_answers / seconds[1])


def _loop_rate(groups: Sequence[RolloutGroup]) -> float:
    """Answers per second of a plain loop: math-verify on every completion against the group's majority."""
    from math_verify import parse, verify

    tallier = Tallier(_section("exact", 1))
    labels = [_label(made) for made in asyncio.run(each(groups, tallier.tally, OPEN_GROUPS))]
    tallier.stop()
    began = time.perf_counter()
    for group, label in zip(groups, labels, strict=True):
        gold = parse(f"\\boxed{{{label}}}", parsing_timeout=None)
        for completion in group.completions:
            verify(gold, parse(completion.text, parsing_timeout=None), timeout_seconds=None)
    return sum(len(group.completions) for group in groups) / (time.perf_counter() - began)


def _label(made: Tally) -> str:
    return made.representatives[max(range(len(made.sizes)), key=made.sizes.__getitem__)]


def _hanging(groups: Sequence[RolloutGroup], seed: int) -> tuple[float, float, float]:
    """What a share of answers that hang costs the groups without one.

    Returns:
        (their rate beside hanging answers over their rate when nothing hangs, median and longest milliseconds until a
        killed worker is replaced)
    """
    changed, disturbed = with_hanging(groups, HANGING_SHARE, seed)
    good = {group.group_id for group in groups} - disturbed
    EQUIVALENCES["bench_hanging"] = Entry(HangingMathVerify, MathVerifyOptions)
    try:
        alone, _ = _seconds_until_done(groups, good)
        beside, replaced = _seconds_until_done(changed, good)
    finally:
        del EQUIVALENCES["bench_hanging"]
    return alone / beside, 1e3 * statistics.median(replaced), 1e3 * max(replaced)


def _seconds_until_done(groups: Sequence[RolloutGroup], wanted: set[int]) -> tuple[float, list[float]]:
    """Seconds until the wanted groups are tallied, all groups begun at once; and how long replacing workers took."""
    tallier = Tallier(_section("bench_hanging", HANGING_WORKERS))
    tallier.start()

    async def tally() -> float:
        began = time.perf_counter()
        tasks = [asyncio.ensure_future(tallier.tally(group)) for group in groups]
        await asyncio.gather(*(task for task, group in zip(tasks, groups, strict=True) if group.group_id in wanted))
        seconds = time.perf_counter() - began
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return seconds

    try:
        return asyncio.run(tally()), list(tallier.pool.replace_seconds)
    finally:
        tallier.stop()


def _share_of_step(seed: int) -> float:
    """Median share of a demo step that the driver waits for votes, the first step left out."""
    from orchestration import train

    with tempfile.TemporaryDirectory(prefix="quorum-bench-") as scratch:
        path = Path(scratch) / "run"
        train(
            "demo",
            [f"run.dir={path}", f"run.seed={seed}", f"run.num_steps={DEMO_STEPS}", "evaluation.data=[]"],
            live=False,
        )
        rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "time/vote_seconds" in row][1:]
    return statistics.median(row["time/vote_seconds"] / row["time/step_seconds"] for row in steps)
