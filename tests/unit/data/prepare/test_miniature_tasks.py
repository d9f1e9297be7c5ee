"""The miniature tasks: answers against an independent reckoning, kinds of slips, prompts held out by their text."""

from __future__ import annotations

import random
import re

import pytest

from data.prepare.miniature_tasks import TASKS, is_held_out
from data.prepare.tiny_model import build_tokenizer

ROW = re.compile(r"([0-9+=-]+)\.$")


def reckoned(name: str, prompt: str) -> str:
    """The answer worked out from the prompt's text alone."""
    row = ROW.search(prompt)[1]
    if name == "count":
        return str(row.count(prompt.removeprefix("Count ")[0]))
    if name == "walk":
        return str((int(prompt.removeprefix("Walk ")[0]) + row.count("+") - row.count("-")) % 10)
    return {"maximum": max(row), "reverse": row[::-1], "sort": "".join(sorted(row))}[name]


@pytest.mark.parametrize("name", TASKS)
def test_an_attempt_without_noise_ends_with_the_right_answer_in_a_box(name):
    task, rng = TASKS[name], random.Random(3)
    for length in task.lengths:
        for _ in range(200):
            digits = task.draw(rng, length)
            answer = reckoned(name, task.render(digits))
            assert task.answer(digits) == answer
            assert task.trace(digits, rng, 0.0).endswith(f"\\boxed{{{answer}}}")


@pytest.mark.parametrize("name", TASKS)
def test_an_attempt_with_noise_is_sometimes_wrong_and_as_long_as_a_right_one(name):
    task, rng = TASKS[name], random.Random(4)
    num_wrong = 0
    for _ in range(300):
        digits = task.draw(rng, task.lengths[0])
        right, attempt = task.trace(digits, rng, 0.0), task.trace(digits, rng, task.noise[0])
        assert len(attempt) == len(right)
        num_wrong += attempt != right
    assert 60 < num_wrong < 280


@pytest.mark.parametrize("name", TASKS)
def test_levels_have_rows_of_one_length_each_and_a_noise(name):
    task, rng = TASKS[name], random.Random(5)
    assert len(task.lengths) == len(task.noise)
    for length in task.lengths:
        assert {len(ROW.search(task.render(task.draw(rng, length)))[1]) for _ in range(50)} == {length}


def test_a_running_count_is_shown_and_hits_are_only_ever_missed():
    count = TASKS["count"]
    assert count.trace((3, 7, 3, 3, 1, 3, 0), random.Random(0), 0.0) == "01223\\boxed{3}"
    rng = random.Random(6)
    counts = [int(count.steps((3, *[3] * 6), rng, 0.3)[-1]) for _ in range(2000)]
    assert max(counts) == 6
    assert 0.66 < sum(counts) / 12_000 < 0.74


def test_a_walk_shows_its_places_and_goes_astray_up_as_often_as_down():
    walk = TASKS["walk"]
    assert walk.render((9, 0, 0, 1, 2)) == "Walk 9: ++-=."
    assert walk.trace((9, 0, 0, 1, 2), random.Random(0), 0.0) == "010\\boxed{0}"
    rng = random.Random(7)
    slips = [int(walk.steps((4, 2), rng, 0.3)[-1]) - 4 for _ in range(4000)]
    assert set(slips) == {-1, 0, 1}
    assert abs(sum(slips)) < 150


@pytest.mark.parametrize("name", ["reverse", "sort"])
def test_slips_of_order_keep_the_digits(name):
    task, rng = TASKS[name], random.Random(8)
    for _ in range(200):
        digits = task.draw(rng, 6)
        assert sorted(task.steps(digits, rng, 0.4)[-1]) == sorted(map(str, digits))


@pytest.mark.parametrize("name", TASKS)
def test_about_one_prompt_in_eight_is_held_out(name):
    task, rng = TASKS[name], random.Random(9)
    prompts = {task.render(task.draw(rng, task.lengths[-1])) for _ in range(3000)}
    assert 0.09 < sum(map(is_held_out, prompts)) / len(prompts) < 0.16


@pytest.mark.stack
@pytest.mark.parametrize("name", TASKS)
def test_the_tokenizer_covers_every_task_and_prompts_of_a_level_are_equally_long(name):
    pytest.importorskip("transformers")
    tokenizer, task, rng = build_tokenizer(), TASKS[name], random.Random(10)
    lengths = set()
    for _ in range(50):
        digits = task.draw(rng, task.lengths[0])
        for text in (task.render(digits), task.trace(digits, rng, 0.2)):
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids, skip_special_tokens=True) == text
        lengths.add(len(tokenizer(task.render(digits))["input_ids"]))
    assert len(lengths) == 1 and max(lengths) <= 24
