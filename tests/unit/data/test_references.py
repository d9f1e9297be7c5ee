"""References: read apart from the prompts, given out by the dispenser alone."""

from __future__ import annotations

import pickle

import pytest

from configs.schema import ColumnNames, DataSource, Ramp
from data.prompts import load_prompts
from data.references import Dispenser, References, RevealedLabel, load_references
from quorum.errors import DataError
from tests.unit.data.sample_data import ROWS, VERL_ROWS, LetterTokenizer, data_section, write_jsonl, write_parquet


def prompt_ids(source):
    return [
        p.prompt_id for p in load_prompts([source], data_section(), LetterTokenizer(), max_prompt_tokens=99).prompts
    ]


@pytest.mark.parametrize(("rows", "write"), [(ROWS, write_jsonl), (VERL_ROWS, write_jsonl), (VERL_ROWS, write_parquet)])
def test_answers_are_found_by_the_prompts_ids(tmp_path, rows, write):
    path = write(tmp_path / "a.data", rows)
    source = DataSource(path=str(path), format="jsonl" if write is write_jsonl else "parquet")
    references = load_references([source])
    assert [references.get(prompt_id) for prompt_id in prompt_ids(source)] == ["0", "2", "4", "6", "8"]
    assert len(references) == 5
    assert references.get("f" * 32) is None


def test_a_configured_column_must_be_there(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(DataError, match="no column 'answr'.*did you mean 'answer'"):
        load_references([DataSource(path=str(path), columns=ColumnNames(answer="answr"))])


def test_rows_without_an_answer_have_no_reference(tmp_path):
    path = write_jsonl(
        tmp_path / "a.jsonl", [{"prompt": "a"}, {"prompt": "b", "answer": 3.5}, {"prompt": "c", "answer": None}]
    )
    source = DataSource(path=str(path))
    references = load_references([source])
    assert [references.get(i) for i in prompt_ids(source)] == [None, "3.5", None]


def test_references_survive_pickling_and_do_not_print_answers(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "a", "answer": "secret"}])
    references = load_references([DataSource(path=str(path))])
    assert "secret" not in repr(references)
    assert len(pickle.loads(pickle.dumps(references))) == 1


def test_the_dispenser_reveals_only_what_it_was_told_to_and_counts(tmp_path):
    source = DataSource(path=str(write_jsonl(tmp_path / "a.jsonl", ROWS)))
    references, ids = load_references([source]), prompt_ids(source)
    assert Dispenser(references).reveal(ids[0]) is None
    dispenser = Dispenser(references, [ids[1], "f" * 32])
    assert dispenser.reveal(ids[0]) is None
    assert dispenser.reveal("f" * 32) is None
    assert dispenser.num_revealed == 0
    for _ in range(2):
        assert dispenser.reveal(ids[1]) == RevealedLabel(prompt_id=ids[1], answer="2", provenance="ground_truth")
    assert dispenser.num_revealed == 1


def test_a_share_on_a_schedule_reveals_ever_more_or_fewer_and_the_same_in_every_order():
    ids = [f"{number:032x}" for number in range(400)]
    references = References({one: "7" for one in ids})

    def revealed(step, start, end, order=ids):
        dispenser = Dispenser(references, ids, seed=3, share=Ramp(start=start, end=end, steps=10))
        return {one for one in order if dispenser.reveal(one, step) is not None}

    falling = [revealed(step, 0.5, 0.1) for step in (0, 5, 10, 99)]
    assert [round(len(one) / 400, 1) for one in falling] == [0.5, 0.3, 0.1, 0.1]
    assert falling[0] > falling[1] > falling[2] == falling[3]
    assert revealed(5, 0.1, 0.5, ids[::-1]) == falling[1]
    assert revealed(0, 0.0, 0.5) == set()
