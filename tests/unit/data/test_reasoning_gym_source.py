"""Generated tasks: prompts and answers by name, parameters and seed."""

from __future__ import annotations

import sys

import pytest

from configs.schema import ColumnNames, DataSource
from data.prompts import load_prompts
from data.reasoning_gym_source import generate_rows
from data.references import load_references
from quorum.errors import DataError
from tests.unit.data.sample_data import LetterTokenizer, data_section

pytest.importorskip("cellpylib", reason="reasoning-gym is part of the full stack")


def task(path="reasoning_gym:chain_sum", size=4, seed=0, **options):
    return DataSource(path=path, size=size, seed=seed, task_options=options)


def prompts_of(*sources):
    return load_prompts(sources, data_section(), LetterTokenizer(), max_prompt_tokens=500).prompts


def refusal(source) -> str:
    with pytest.raises(DataError) as caught:
        generate_rows(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_task_gives_the_same_prompts_for_the_same_seed():
    first, again = prompts_of(task(max_terms=2)), prompts_of(task(max_terms=2))
    assert [(p.prompt_id, p.text) for p in first] == [(p.prompt_id, p.text) for p in again]
    assert {p.data_source for p in first} == {"chain_sum"}
    assert first[0].text.startswith("State the final answer")


def test_ids_tell_index_seed_and_options_apart():
    prompts = prompts_of(task(), task(seed=50), task(max_terms=2))
    assert len({p.prompt_id for p in prompts}) == 12


def test_answers_stay_with_the_references():
    source = task(min_terms=2, max_terms=2)
    rows, references = generate_rows(source), load_references([source])
    assert [references.get(p.prompt_id) for p in prompts_of(source)] == [row["answer"] for row in rows]


def test_wrong_tasks_and_options_name_the_nearest():
    assert "did you mean reasoning_gym:chain_sum?" in refusal(task("reasoning_gym:chain_sums"))
    assert "did you mean 'min_terms'?" in refusal(task(min_term=2))
    assert "max_terms must be >= min_terms" in refusal(task(min_terms=5, max_terms=2))
    assert "needs `size`" in refusal(task(size=None))
    assert "beside task_options" in refusal(
        DataSource(path="reasoning_gym:chain_sum", size=1, task_options={"seed": 1})
    )


def test_a_generated_task_has_no_columns_to_name():
    source = task().model_copy(update={"columns": ColumnNames(prompt="question")})
    with pytest.raises(DataError, match="remove `columns`"):
        prompts_of(source)


def test_the_task_that_needs_pycosat_is_refused_by_name_where_it_is_absent():
    generate_rows(task())
    if hasattr(sys.modules["pycosat"], "itersolve"):
        pytest.skip("pycosat is installed")
    assert "zebra_puzzles needs the compiled package pycosat" in refusal(task("reasoning_gym:zebra_puzzles"))
