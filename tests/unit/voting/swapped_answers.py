"""What a worker process does to put one scorer of reasoning-gym to the test. Imported by name there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from typing import Any

from quorum.reasoning_gym_tasks import load_tasks
from voting.answers.reasoning_gym_scorers import earns_full_score, same_by_scorer

NUM_ANSWERS = 25
NUM_ENTRIES = 150
SEED = 4000


class Watched(dict[str, Any]):
    """A dictionary that remembers being asked for what it does not have."""

    was_asked = False

    def __missing__(self, key: str) -> Any:
        self.was_asked = True
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        self.was_asked = self.was_asked or not super().__contains__(key)
        return super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.was_asked = self.was_asked or not super().__contains__(key)
        return super().get(key, default)


def verdict(task: str, seed: int = SEED) -> str:
    """The word fair, or that of the reason why not: one of REASONS, or partial_score."""
    answers = list(islice(different_answers(task, seed), 2))
    if len(answers) < 2:
        return "needs_metadata" if asks_for_more(task, '{"a": 1}') else "not_generated"
    for answer in answers:
        if not earns_full_score(task, answer, answer):
            return "needs_metadata" if asks_for_more(task, answer) else "partial_score"
    answers = list(islice(different_answers(task, seed), NUM_ANSWERS))
    pairs = [(candidate, label) for candidate in answers for label in answers if candidate != label]
    full = [earns_full_score(task, candidate, label) for candidate, label in pairs]
    if any(full):
        return "ignores_answer" if all(full) else "too_tolerant"
    if not all(same_by_scorer(task, answer, answer) for answer in answers):
        return "partial_score"
    is_near_enough = any(same_by_scorer(task, answer, near) for answer in answers for near in near_misses(answer))
    return "too_tolerant" if is_near_enough else "fair"


def different_answers(task: str, seed: int) -> Iterator[str]:
    """Answers of the task's own entries, each once; the empty one is left out (it abstains), and so is no answer."""
    data_set, configuration = load_tasks()[task]
    entries = data_set(configuration(seed=seed, size=NUM_ENTRIES))
    seen = {None, ""}
    for number in range(NUM_ENTRIES):
        answer = entries[number]["answer"]
        if answer not in seen:
            seen.add(answer)
            yield answer


def asks_for_more(task: str, answer: str) -> bool:
    """Whether the scorer looks for anything in the entry but the answer."""
    data_set, configuration = load_tasks()[task]
    metadata = Watched()
    entry = Watched(answer=answer, metadata=metadata)
    try:
        data_set(configuration(seed=0, size=1)).score_answer(answer, entry)
    except Exception:  # noqa: BLE001
        return entry.was_asked or metadata.was_asked
    return entry.was_asked or metadata.was_asked


def near_misses(answer: str) -> set[str]:
    """Answers one slip away: the other sign, 2 percent off, the first or last word, line or item missing."""
    made: set[str] = set()
    if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", answer) and Decimal(answer):
        made |= {answer[1:] if answer.startswith("-") else "-" + answer, str(Decimal(answer) * Decimal("1.02"))}
    for separator in ("\n", " ", ","):
        parts = answer.split(separator)
        made |= {separator.join(parts[1:]), separator.join(parts[:-1])}
    try:
        items = json.loads(answer)
        if isinstance(items, list):
            made |= {json.dumps(items[1:]), json.dumps(items[:-1])}
    except ValueError:
        pass
    return made - {answer, ""}
