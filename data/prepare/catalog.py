"""The training and test sets of arXiv 2505.21444 and 2504.16084: where each is, and which columns and rows are meant.

Nothing here reads data. Where an origin is not the authors' own publication its note says so.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from quorum.errors import DataError

SUFFIX = " Let's think step by step and output the final answer within \\boxed{}."
"""Of arXiv 2505.21444, appended to every question. Presets append it themselves (data.prompt_suffix)."""
TRAIN_SEED, EVAL_SEED = 0, 1_000_000_000
"""Entry i of a task is made from seed + i: two sets share no seed while each has fewer entries than lie between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """One place on the hub that has a set."""

    hub: str
    configuration: str | None = None
    split: str = "train"
    prompt: str = "prompt"
    answer: str = "answer"
    where: Mapping[str, str] = field(default_factory=dict)
    """Column -> value: only rows that have it."""
    between: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Column -> lowest and highest value, both included."""
    choices: tuple[str, ...] = ()
    """Columns of wrong choices: the prompt then lists all choices in a drawn order, and the answer is a letter."""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """A reasoning-gym task at one difficulty."""

    task: str
    options: Mapping[str, Any]
    size: int
    seed: int
    avoid: Generated | None = None
    """Another set whose questions are left out of this one, and whose seeds it may not share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One set by its name here."""

    name: str
    role: Literal["train", "test"]
    what: str
    """One line."""
    origins: tuple[Origin, ...] = ()
    """In the order in which they are tried."""
    generated: Generated | None = None
    rows: int | None = None
    """Rows that the papers state; another number is told of."""

    @property
    def columns(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(prompt columns, answer columns) that a local copy may have, best first."""
        prompts = [origin.prompt for origin in self.origins]
        answers = [origin.answer for origin in self.origins]
        return tuple(dict.fromkeys([*prompts, "prompt"])), tuple(dict.fromkeys([*answers, "answer"]))


_EASY = "easiest third of the deduplicated DAPO set, by {} over 32 completions of Qwen2.5-Math-7B at temperature 1"


def _compiled(source: str) -> Origin:
    """Part of the authors' compiled test set."""
    return Origin(
        hub="ftajwar/srt_test_dataset", prompt="Problem", answer="Answer", where={"data_source": source}, split="test"
    )


_HUB = (
    Recipe(
        name="dapo",
        role="train",
        what="DAPO-Math-17k without duplicates",
        rows=17_398,
        origins=(Origin(hub="ftajwar/deduplicated_dapo_dataset"),),
    ),
    Recipe(
        name="dapo_easy_pass_rate",
        role="train",
        what=_EASY.format("pass rate"),
        origins=(Origin(hub="ftajwar/dapo_easy_one_third_sorted_by_pass_rate"),),
    ),
    Recipe(
        name="dapo_easy_frequency",
        role="train",
        what=_EASY.format("frequency of the majority answer"),
        origins=(Origin(hub="ftajwar/dapo_easy_one_third_sorted_by_frequency_of_majority_answer"),),
    ),
    Recipe(
        name="math12k",
        role="train",
        what="MATH, the 12,000 training problems of the 12,000/500 split",
        rows=12_000,
        origins=(
            Origin(
                hub="nlile/hendrycks-MATH-benchmark",
                prompt="problem",
                note="the paper names no repository; this one has the split that it describes",
            ),
        ),
    ),
    Recipe(
        name="aime_1983_2023",
        role="train",
        what="AIME problems of the years 1983 to 2023",
        rows=919,
        origins=(
            Origin(
                hub="di-zhang-fdu/AIME_1983_2024",
                prompt="Question",
                answer="Answer",
                between={"Year": (1983, 2023)},
                note="the paper takes Kaggle's hemishveeraboina/aime-problem-set-1983-2024: pass its CSV with --from",
            ),
        ),
    ),
    Recipe(
        name="big_math_filtered",
        role="train",
        what="Big-Math-RL-Verified with a pass rate of Llama-3.1-8B between 0.3 and 0.7",
        origins=(
            Origin(
                hub="self-label-zanette-lab/big_math_filtered_pass_rate_between_0.3_and_0.7",
                note="named in public code of the authors; may be private",
            ),
            Origin(
                hub="SynthLabsAI/Big-Math-RL-Verified",
                prompt="problem",
                between={"llama8b_solve_rate": (0.3, 0.7)},
                note="the source, filtered here by its own column; asks for consent on the hub",
            ),
        ),
    ),
    Recipe(
        name="aime24",
        role="test",
        what="AIME 2024",
        rows=30,
        origins=(_compiled("aime24"), Origin(hub="Maxwell-Jia/AIME_2024", prompt="Problem", answer="Answer")),
    ),
    Recipe(
        name="aime25",
        role="test",
        what="AIME 2025",
        rows=30,
        origins=(_compiled("aime25"), Origin(hub="yentinglin/aime_2025", prompt="problem")),
    ),
    Recipe(
        name="amc23",
        role="test",
        what="AMC 2023",
        origins=(_compiled("amc23"), Origin(hub="zwhe99/amc23", prompt="question", split="test")),
    ),
    Recipe(
        name="amc_aimo",
        role="test",
        what="AMC 12 of 2022 and 2023, TTRL's AMC",
        rows=83,
        origins=(
            Origin(
                hub="AI-MO/aimo-validation-amc",
                prompt="problem",
                note="TTRL states 83 problems and no repository; this one has as many",
            ),
        ),
    ),
    Recipe(
        name="math500",
        role="test",
        what="MATH-500",
        rows=500,
        origins=(
            _compiled("math500"),
            Origin(hub="HuggingFaceH4/MATH-500", prompt="problem", split="test"),
            Origin(hub="nlile/hendrycks-MATH-benchmark", prompt="problem", split="test"),
        ),
    ),
    Recipe(
        name="minerva_math",
        role="test",
        what="Minerva math",
        origins=(_compiled("minerva_math"),),
    ),
    Recipe(
        name="olympiadbench",
        role="test",
        what="OlympiadBench, text-only English mathematics",
        origins=(_compiled("olympiadbench"),),
    ),
    Recipe(
        name="gpqa",
        role="test",
        what="GPQA diamond, choices in an order drawn from the question",
        rows=198,
        origins=(
            Origin(
                hub="Idavidrein/gpqa",
                configuration="gpqa_diamond",
                prompt="Question",
                answer="Correct Answer",
                choices=("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"),
                note="asks for consent on the hub",
            ),
        ),
    ),
)

TRAIN_SIZE, EVAL_SIZE = 10_000, 500
"""Of generated sets: the paper's have 10,000 to 100,000 training prompts and fewer than 1,000 to evaluate on."""


def _task(short: str, task: str, level: int, options: dict[str, Any]) -> list[Recipe]:
    """Training and evaluation set of one level."""
    what = f"reasoning-gym {task}, {', '.join(f'{name}={value}' for name, value in options.items())}"
    name = f"rg_{short}_{level}"
    evaluated = Generated(task=task, options=options, size=EVAL_SIZE, seed=EVAL_SEED)
    trained = Generated(task=task, options=options, size=TRAIN_SIZE, seed=TRAIN_SEED, avoid=evaluated)
    return [
        Recipe(name=name, role="train", what=what, generated=trained),
        Recipe(name=f"{name}_eval", role="test", what=f"{what}, other seeds", generated=evaluated),
    ]


def _generated() -> list[Recipe]:
    made = [one for level in (2, 3, 4) for one in _task("bitwise", "bitwise_arithmetic", level, {"difficulty": level})]
    for level in (4, 5):
        sizes = {"min_family_size": level, "max_family_size": level}
        made += _task("family", "family_relationships", level, sizes)
    for level in (2, 3, 5, 7, 8, 9):
        made += _task("knights", "knights_knaves", level, {"n_people": level})
    return made


CATALOG: Mapping[str, Recipe] = MappingProxyType({one.name: one for one in (*_HUB, *_generated())})
"""Name -> recipe."""


def find_recipe(name: str) -> Recipe:
    """The recipe of a name. Raises DataError for an unknown one, with the nearest."""
    if name in CATALOG:
        return CATALOG[name]
    near = difflib.get_close_matches(name, CATALOG, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise DataError(f"no data set is called {name!r}{hint} (`quorum data list` names them all)")
