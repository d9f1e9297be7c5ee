"""Statistics of an evaluation: avg@n, maj@n, pass@k and their bootstrap intervals. Pure but for reading one file.

Every statistic is a mean over prompts of a score per prompt, so prompts are what the bootstrap resamples. The macro
average weighs data sources equally, whatever their size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.schema import EvaluationSection
from data.references import References
from orchestration.watch.grade import Grader
from orchestration.watch.vote_metrics import majority_ratio
from quorum.errors import DataError
from quorum.types import SamplingSettings

NUM_RESAMPLES = 2000
_RESAMPLES_AT_ONCE = 100
_COLUMNS = [
    *("group_id", "prompt_id", "data_source", "answers", "cluster", "sizes", "representatives", "pseudo_label"),
    *("rewards", "completions.list.element.token_ids"),
]


class Interval(NamedTuple):
    """A mean with its 95% bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PromptScore:
    """How one prompt's completions did against its reference."""

    group_id: int
    prompt_id: str
    data_source: str
    reference: str
    correct: tuple[bool, ...]
    """[n] whether each completion's answer is right; an abstention is wrong."""
    majority_answer: str | None
    """The most common answer; None without an answer or on a tie."""
    majority_correct: bool
    majority_ratio: float
    """The largest cluster's share of all n completions."""
    label: str | None
    """The pseudo-label of a training group; None where nobody was elected."""
    label_correct: bool
    rewards: tuple[float, ...] | None
    """[n], None where the group was not rewarded."""
    num_abstained: int
    num_tokens: int


def evaluation_sampling(
    section: EvaluationSection, max_completion_tokens: int, stop: tuple[str, ...] = ()
) -> SamplingSettings:
    """How evaluation completions are drawn: n of them, or a single one when greedy, as all would be equal."""
    is_greedy = section.temperature == 0
    return SamplingSettings(
        num_completions=1 if is_greedy else section.completions_per_prompt,
        temperature=section.temperature,
        top_p=1.0 if is_greedy else section.top_p,
        max_completion_tokens=max_completion_tokens,
        stop=stop,
    )


def avg_at_n(correct: Sequence[bool]) -> float:
    """Share of right completions of one prompt. Raises ValueError for none."""
    if not correct:
        raise ValueError("avg@n of no completions")
    return sum(correct) / len(correct)


def majority_of(sizes: Sequence[int], representatives: Sequence[str]) -> str | None:
    """The most common answer of one prompt; None without answers, and on a tie, which elects nobody."""
    top = max(sizes, default=0)
    winners = [answer for answer, size in zip(representatives, sizes, strict=True) if size == top]
    return winners[0] if len(winners) == 1 else None


def pass_at_k(num_completions: int, num_correct: int, k: int) -> float:
    """Unbiased probability that at least one of k completions is right (Chen et al., arXiv 2107.03374).

    Returns:
        1 - C(n - c, k) / C(n, k), computed exactly.

    Raises:
        ValueError: k is not in [1, n], or c not in [0, n].

    Example:
        >>> pass_at_k(4, 1, 2)
        0.5
    """
    if not 1 <= k <= num_completions or not 0 <= num_correct <= num_completions:
        raise ValueError(f"pass@{k} of {num_correct} right among {num_completions} completions")
    return 1.0 - math.comb(num_completions - num_correct, k) / math.comb(num_completions, k)


def pass_ks(num_completions: int) -> list[int]:
    """The k that pass@k is reported for: powers of two up to n, and n."""
    powers = [1 << bit for bit in range(num_completions.bit_length()) if 1 << bit < num_completions]
    return [*powers, num_completions]


def bootstrap(scores: Sequence[np.ndarray], seed: int, num_resamples: int = NUM_RESAMPLES) -> list[Interval]:
    """Means with 95% percentile bootstrap intervals, resampling prompts within each data source.

    Args:
        scores: per data source [P, S]: S scores of each of its prompts.
        seed: of the resampling; equal seeds give equal intervals.
        num_resamples: bootstrap samples.

    Returns:
        [S] macro averages over the data sources (with one source, its own means).

    Raises:
        ValueError: a source without prompts.
    """
    if not scores or any(len(source) == 0 for source in scores):
        raise ValueError("bootstrap of a data source without prompts")
    generator = np.random.default_rng(seed)
    value = np.mean([source.mean(axis=0) for source in scores], axis=0)
    resampled = np.zeros((num_resamples, len(value)))
    for source in scores:
        num_prompts = len(source)
        for start in range(0, num_resamples, _RESAMPLES_AT_ONCE):
            size = min(_RESAMPLES_AT_ONCE, num_resamples - start)
            counts = generator.multinomial(num_prompts, np.full(num_prompts, 1 / num_prompts), size=size)
            resampled[start : start + size] += counts @ source / num_prompts
    low, high = np.percentile(resampled / len(scores), [2.5, 97.5], axis=0)
    return [Interval(*(float(x) for x in triple)) for triple in zip(value, low, high, strict=True)]


def score_rows(rows: pa.Table, references: References, grader: Grader) -> list[PromptScore]:
    """Scores of the groups in `rows` that were tallied and have a reference answer, in row order.

    Raises:
        VotingError: the equivalence's worker processes could not be started.
    """
    token_ids = rows.column("completions").combine_chunks()
    entries = rows.drop_columns("completions").to_pylist()
    known = [None if row["answers"] is None else references.get(row["prompt_id"]) for row in entries]
    grader.grade_ahead(
        (reference, row["answers"]) for row, reference in zip(entries, known, strict=True) if reference is not None
    )
    scores = []
    for index, (row, reference) in enumerate(zip(entries, known, strict=True)):
        if reference is None:
            continue
        majority, label = majority_of(row["sizes"], row["representatives"]), row["pseudo_label"]
        verdicts = grader.grade(reference, [*row["answers"], majority, label])
        scores.append(
            PromptScore(
                group_id=row["group_id"],
                prompt_id=row["prompt_id"],
                data_source=row["data_source"],
                reference=reference,
                correct=tuple(verdicts[:-2]),
                majority_answer=majority,
                majority_correct=verdicts[-2],
                majority_ratio=majority_ratio(row["sizes"], len(row["answers"])),
                label=label,
                label_correct=verdicts[-1],
                rewards=None if row["rewards"] is None else tuple(row["rewards"]),
                num_abstained=sum(cluster < 0 for cluster in row["cluster"]),
                num_tokens=sum(len(completion["token_ids"]) for completion in token_ids[index]),
            )
        )
    return scores


def read_scored(path: Path, references: References, grader: Grader) -> list[PromptScore]:
    """Scores of one closed group file; see `score_rows`. Raises DataError when it cannot be read."""
    try:
        rows = pq.ParquetFile(path).read(columns=_COLUMNS)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as a group file: {error}") from error
    return score_rows(rows, references, grader)


def _statistics(sources: Sequence[Sequence[PromptScore]], seed: int) -> dict[str, Any]:
    num_completions = min(len(score.correct) for source in sources for score in source)
    ks = pass_ks(num_completions)
    table = [
        np.array(
            [
                [
                    avg_at_n(score.correct),
                    score.majority_correct,
                    score.majority_correct - avg_at_n(score.correct),
                    *(pass_at_k(len(score.correct), sum(score.correct), k) for k in ks),
                ]
                for score in source
            ],
            dtype=np.float64,
        )
        for source in sources
    ]
    average, majority, gap, *passes = bootstrap(table, seed)
    return {
        "num_prompts": sum(len(source) for source in sources),
        "num_completions": num_completions,
        "average_accuracy": average,
        "majority_accuracy": majority,
        "generation_verification_gap": gap,
        "pass_accuracy": {str(k): interval for k, interval in zip(ks, passes, strict=True)},
    }


def summarize(scores: Sequence[PromptScore], seed: int = 0) -> dict[str, Any]:
    """An evaluation's result.

    Args:
        scores: of all prompts with a reference answer.
        seed: of the bootstrap.

    Returns:
        `macro` and per name under `sources`: num_prompts, num_completions (n), and as (value, low, high)
        average_accuracy, majority_accuracy, generation_verification_gap and pass_accuracy by k; beside them the
        eval/* metrics. Empty when no prompt has a reference.
    """
    if not scores:
        return {}
    by_source: dict[str, list[PromptScore]] = {}
    for score in scores:
        by_source.setdefault(score.data_source, []).append(score)
    names = sorted(by_source)
    macro = _statistics([by_source[name] for name in names], seed)
    num_completions = sum(len(score.correct) for score in scores)
    return {
        "eval/average_accuracy": macro["average_accuracy"].value,
        "eval/majority_accuracy": macro["majority_accuracy"].value,
        "eval/pass_accuracy": macro["pass_accuracy"][str(macro["num_completions"])].value,
        "eval/generation_verification_gap": macro["generation_verification_gap"].value,
        "eval/abstain_share": sum(score.num_abstained for score in scores) / num_completions,
        "eval/completion_tokens_mean": sum(score.num_tokens for score in scores) / num_completions,
        "eval/num_prompts": len(scores),
        "macro": macro,
        "sources": {name: _statistics([by_source[name]], seed) for name in names},
    }


def score_table(row: Mapping[str, Any]) -> str:
    """An evaluation's result as a plain table: one line per data source, then the macro average.

    Args:
        row: of `audit/eval.jsonl`, or from `summarize`.

    Returns:
        Lines without a final newline; values in percent with their 95% intervals.
    """
    if "sources" not in row:
        return "no prompt has a reference answer"
    named = dict(row["sources"])
    if len(named) > 1:
        named["macro average"] = row["macro"]
    width = max(len(name) for name in [*named, "data source"])
    lines: list[str] = []
    for name, figures in named.items():
        n = figures["num_completions"]
        passes = figures["pass_accuracy"]
        shown = {f"avg@{n}": figures["average_accuracy"], f"maj@{n}": figures["majority_accuracy"]}
        shown |= {f"pass@{k}": passes[k] for k in passes if k != "1"}
        if not lines:
            lines.append(f"{'data source':{width}}  prompts  " + "  ".join(f"{title:^18}" for title in shown))
        cells = (f"{100 * v:5.1f} [{100 * low:4.1f}, {100 * high:4.1f}]" for v, low, high in shown.values())
        lines.append(f"{name:{width}}  {figures['num_prompts']:7,}  " + "  ".join(f"{cell:18}" for cell in cells))
    return "\n".join(line.rstrip() for line in lines)
