"""Demo prompts with their answers, as plain rows that a test can write, corrupt and write again."""

from __future__ import annotations

from configs.schema import DataSource
from data.prepare.demo import TASK_OPTIONS
from data.reasoning_gym_source import generate_rows


def demo_rows(*, seed: int, size: int) -> list[dict[str, str]]:
    """Rows {prompt, answer} of the demo's task."""
    source = DataSource(path="reasoning_gym:basic_arithmetic", task_options=TASK_OPTIONS, size=size, seed=seed)
    return [{"prompt": row["question"], "answer": row["answer"]} for row in generate_rows(source)]
