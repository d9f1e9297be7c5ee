"""Prompts: formats, columns, rendering, identity, order, and a one-line error for each kind of bad data."""

from __future__ import annotations

import json

import pytest

from configs.schema import ColumnNames, DataSource
from data.prompts import load_prompts
from data.references import load_references
from quorum.errors import DataError
from quorum.types import Message, Prompt
from tests.unit.data.sample_data import (
    ROWS,
    VERL_ROWS,
    ChatTokenizer,
    LetterTokenizer,
    data_section,
    write_jsonl,
    write_parquet,
)


def load(*sources, tokenizer=None, limit=200, **section):
    return load_prompts(sources, data_section(**section), tokenizer or LetterTokenizer(), max_prompt_tokens=limit)


def source(path, size=None, extractor=None, **columns):
    return DataSource(path=str(path), size=size, extractor=extractor, columns=ColumnNames(**columns))


def refusal(*sources, **kwargs) -> str:
    with pytest.raises(DataError) as caught:
        load(*sources, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_jsonl_rows_become_prompts_in_file_order(tmp_path):
    prompts = load(source(write_jsonl(tmp_path / "sums.jsonl", ROWS), extractor="last_number")).prompts
    assert [p.text for p in prompts] == [row["prompt"] for row in ROWS]
    assert {p.data_source for p in prompts} == {"sums"}
    assert {p.extractor for p in prompts} == {"last_number"}
    assert prompts[0].token_ids.tolist() == [1, *map(ord, "What is 0 + 0?")]
    assert prompts[0].messages == ()


def test_parquet_gives_the_same_prompts_as_jsonl_but_for_the_ids(tmp_path):
    jsonl = load(source(write_jsonl(tmp_path / "sums.jsonl", ROWS))).prompts
    parquet = load(source(write_parquet(tmp_path / "sums.parquet", ROWS))).prompts
    assert [p.text for p in jsonl] == [p.text for p in parquet]
    assert {p.prompt_id for p in jsonl}.isdisjoint(p.prompt_id for p in parquet)


def test_verl_layout_is_read_as_it_is(tmp_path):
    prompts = load(source(write_parquet(tmp_path / "train.parquet", VERL_ROWS)), tokenizer=ChatTokenizer()).prompts
    assert {p.data_source for p in prompts} == {"openai/gsm8k"}
    assert prompts[2].messages == (
        Message(role="system", content="Be brief."),
        Message(role="user", content="What is 2 + 2?"),
    )
    assert prompts[2].text == "<system>Be brief.<user>What is 2 + 2?<assistant>"


def test_a_glob_reads_its_files_in_sorted_order_and_tells_their_rows_apart(tmp_path):
    for name in ("b", "a"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"prompt": f"{name}{n}"} for n in range(2)])
    prompts = load(source(tmp_path / "*.jsonl")).prompts
    assert [p.text for p in prompts] == ["a0", "a1", "b0", "b1"]
    assert len({p.prompt_id for p in prompts}) == 4


def test_size_takes_rows_from_the_front_and_sources_are_concatenated(tmp_path):
    first = source(write_jsonl(tmp_path / "a.jsonl", ROWS), size=2)
    second = source(write_jsonl(tmp_path / "b.jsonl", ROWS), size=1)
    assert [p.text for p in load(first, second).prompts] == [ROWS[n]["prompt"] for n in (0, 1, 0)]


def test_columns_may_be_named_with_dots_into_nested_records(tmp_path):
    rows = [{"problem": {"text": f"q{n}"}, "meta": {"uid": f"u{n}", "set": "algebra"}} for n in range(2)]
    names = {"prompt": "problem.text", "id": "meta.uid", "data_source": "meta.set"}
    for path in (write_jsonl(tmp_path / "a.jsonl", rows), write_parquet(tmp_path / "a.parquet", rows)):
        prompts = load(source(path, **names)).prompts
        assert [(p.text, p.data_source) for p in prompts] == [("q0", "algebra"), ("q1", "algebra")]


def test_a_column_that_itself_has_a_dot_wins_over_a_nested_one(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"x.y": "flat", "x": {"y": "nested"}}])
    assert load(source(path, prompt="x.y")).prompts[0].text == "flat"


def test_ids_by_column_do_not_depend_on_row_order(tmp_path):
    rows = [{"prompt": f"q{n}", "uid": n} for n in range(4)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    forward = {p.text: p.prompt_id for p in load(source(path, id="uid")).prompts}
    write_jsonl(path, rows[::-1])
    assert {p.text: p.prompt_id for p in load(source(path, id="uid")).prompts} == forward


def test_the_suffix_goes_on_the_last_user_turn(tmp_path):
    turns = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "reply"},
        {"role": "user", "content": "second"},
    ]
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": turns}, {"prompt": "plain"}])
    with_template = load(source(path), tokenizer=ChatTokenizer(), prompt_suffix=" Think.").prompts
    assert with_template[0].text == "<user>first<assistant>reply<user>second Think.<assistant>"
    assert with_template[1].text == "<user>plain Think.<assistant>"
    without = load(source(path), tokenizer=ChatTokenizer(), prompt_suffix=" Think.", chat_template="never").prompts
    assert [p.text for p in without] == ["first\n\nreply\n\nsecond Think.", "plain Think."]


def test_a_chat_template_writes_its_own_special_tokens(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "x"}])
    assert load(source(path), tokenizer=ChatTokenizer()).prompts[0].token_ids[0] == ord("<")
    assert load(source(path), tokenizer=LetterTokenizer()).prompts[0].token_ids[0] == 1


def test_the_same_text_twice_is_two_prompts(tmp_path):
    prompts = load(source(write_jsonl(tmp_path / "a.jsonl", [{"prompt": "same"}] * 2))).prompts
    assert len({p.prompt_id for p in prompts}) == 2


def test_the_same_id_twice_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "q", "uid": 7}, {"prompt": "r", "uid": 7}])
    message = refusal(source(path, id="uid"))
    assert "'7' occurs twice" in message and "line 1" in message and "line 2" in message


def test_the_same_file_listed_twice_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    assert "listed twice" in refusal(source(path), source(path))


def test_long_prompts_are_dropped_and_counted(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "x" * n} for n in (5, 50, 8, 60)])
    prompts = load(source(path), limit=9)
    assert [len(p.text) for p in prompts.prompts] == [5, 8]
    assert prompts.num_dropped_too_long == 2


def test_long_prompts_are_refused_by_setting(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "x" * n} for n in (5, 50)])
    message = refusal(source(path), limit=9, on_long_prompt="error")
    assert "line 2" in message and "51 tokens" in message and "data.max_prompt_tokens" in message


def test_dropping_every_prompt_is_refused_with_the_shortest_length(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "x" * n} for n in (30, 20)])
    message = refusal(source(path), limit=9)
    assert "no prompt is left: all 2" in message and "21" in message


def test_a_missing_file_is_named_with_the_nearest_one(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    assert "did you mean" in (message := refusal(source(tmp_path / "trian.jsonl"))) and "train.jsonl" in message
    assert "does not exist either" in refusal(source(tmp_path / "no" / "train.jsonl"))
    assert "no file matches" in refusal(source(tmp_path / "*.parquet"))


def test_bad_json_names_its_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "fine"}\n\n{"prompt": broken}\n')
    assert "a.jsonl line 3: not JSON" in refusal(source(path))
    path.write_text('["not", "an object"]\n')
    assert "line 1: a row must be a JSON object, got list" in refusal(source(path))
    path.write_bytes(b'{"prompt": "\xff\xfe"}\n')
    assert "line 1: not UTF-8" in refusal(source(path))


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"not parquet at all")
    assert "not a readable Parquet file" in refusal(source(path))


def test_empty_data_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n\n")
    assert "has no rows" in refusal(source(tmp_path / "a.jsonl"))
    write_parquet(tmp_path / "b.parquet", ROWS)
    assert "has no rows" in refusal(source(write_parquet_empty(tmp_path / "b.parquet")))


def write_parquet_empty(path):
    from pyarrow import parquet

    parquet.write_table(parquet.read_table(path).slice(0, 0), path)
    return path


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
def test_a_missing_column_is_named_with_the_columns_there_and_the_nearest(tmp_path, write):
    message = refusal(
        source(write(tmp_path / "a.data", ROWS), prompt="promt").model_copy(
            update={"format": "jsonl" if write is write_jsonl else "parquet"}
        )
    )
    assert "no column 'promt'" in message
    assert "it has prompt, answer" in message and "did you mean 'prompt'?" in message


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("  ", "the prompt is empty"),
        ([], "the prompt is empty"),
        (None, "is empty"),
        (7, "must be a string or a list"),
        ([{"role": "user"}], "needs role and content"),
        ([{"role": "user", "content": [{"type": "image"}]}], "needs role and content"),
    ],
)
def test_a_prompt_of_the_wrong_shape_names_its_row(tmp_path, value, reason):
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "fine"}, {"prompt": value}])
    message = refusal(source(path))
    assert "line 2" in message and reason in message


def test_a_chat_template_that_refuses_a_prompt_names_its_row(tmp_path):
    class Strict(ChatTokenizer):
        def apply_chat_template(self, turns, tokenize, add_generation_prompt):
            raise RuntimeError("roles must alternate")

    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "x"}])
    assert "line 1: the tokenizer's chat template refuses the prompt: roles must alternate" in refusal(
        source(path), tokenizer=Strict()
    )


def test_the_answer_column_cannot_be_used_as_prompt_or_id(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    for role in ("id", "data_source", "prompt"):
        assert "answers must stay out" in refusal(source(path, **{role: "answer"}))


def test_unknown_formats_say_what_to_set(tmp_path):
    (tmp_path / "a.csv").write_text("prompt\nx\n")
    assert "set format" in refusal(source(tmp_path / "a.csv"))
    assert "give a glob" in refusal(source(tmp_path))


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
@pytest.mark.parametrize("rows", [ROWS, VERL_ROWS])
def test_corrupt_references_change_no_bit_of_any_prompt(tmp_path, write, rows):
    path = tmp_path / "a.data"
    kind = "jsonl" if write is write_jsonl else "parquet"
    data = DataSource(path=str(path), format=kind)
    write(path, rows)
    before = load(data).prompts
    text = json.dumps(rows)
    for n in range(5):
        text = text.replace(f'"answer": "{2 * n}"', f'"answer": "wrong-{n}"')
        text = text.replace(f'"ground_truth": "{2 * n}"', f'"ground_truth": "wrong-{n}"')
    assert text.count("wrong-") == 5
    write(path, json.loads(text))
    after = load(data).prompts
    assert [fingerprint(p) for p in before] == [fingerprint(p) for p in after]
    assert not any("wrong-" in repr(fingerprint(p)) for p in after)


def fingerprint(prompt: Prompt) -> tuple:
    values = {name: getattr(prompt, name) for name in Prompt.__dataclass_fields__}
    return (*sorted((name, repr(value)) for name, value in values.items()), prompt.token_ids.tobytes())


def test_ids_stay_when_the_files_are_moved_together(tmp_path):
    found = []
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        paths = [write_jsonl(tmp_path / folder / name, ROWS) for name in ("a.jsonl", "b.jsonl")]
        found.append(load(*map(source, paths)))
    assert [p.prompt_id for p in found[0].prompts] == [p.prompt_id for p in found[1].prompts]
    assert found[0].content_hash() == found[1].content_hash()


def test_files_of_one_name_in_two_directories_are_two_sources(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    prompts = load(*(source(write_jsonl(tmp_path / folder / "train.jsonl", ROWS)) for folder in ("a", "b"))).prompts
    assert len({p.prompt_id for p in prompts}) == 2 * len(ROWS)


def test_the_content_hash_tells_other_prompts_and_another_order(tmp_path):
    rows = [ROWS, ROWS[::-1], ROWS[:-1], [*ROWS[:-1], {"prompt": "What else?"}]]
    hashes = []
    for index, some in enumerate(rows):
        (tmp_path / str(index)).mkdir()
        hashes.append(load(source(write_jsonl(tmp_path / str(index) / "a.jsonl", some))).content_hash())
    assert len(set(hashes)) == len(rows)


def test_a_file_with_two_views_per_row_gives_neighbours_that_name_each_other(tmp_path):
    rows = [{"prompt": f"{n} + {n}?", "other": f"Twice {n}?", "answer": str(2 * n)} for n in range(6)]
    source = DataSource(path=str(write_jsonl(tmp_path / "a.jsonl", rows)), columns=ColumnNames(paraphrase="other"))
    made = load_prompts([source], data_section(), LetterTokenizer(), max_prompt_tokens=99)
    assert [prompt.text for prompt in made.prompts[:4]] == ["0 + 0?", "Twice 0?", "1 + 1?", "Twice 1?"]
    assert made.is_paired
    order = made.order(seed=5, shuffle=True, in_pairs=True)
    for number in range(0, 24, 2):
        first, second = order.prompt_at(number), order.prompt_at(number + 1)
        assert (first.other_view, second.other_view) == (second.prompt_id, first.prompt_id)
    references = load_references([source])
    answers = [references.get(prompt.prompt_id) for prompt in made.prompts]
    assert answers == [str(2 * (number // 2)) for number in range(12)]


def test_pairs_without_a_second_view_and_views_that_are_missing_are_refused(tmp_path):
    path = str(write_jsonl(tmp_path / "a.jsonl", [{"prompt": "a", "other": "b"}, {"prompt": "c"}]))
    plain = load_prompts([DataSource(path=path)], data_section(), LetterTokenizer(), max_prompt_tokens=99)
    with pytest.raises(DataError, match="name the column that holds it"):
        plain.order(seed=0, shuffle=False, in_pairs=True)
    source = DataSource(path=path, columns=ColumnNames(paraphrase="other"))
    with pytest.raises(DataError, match="columns.paraphrase"):
        load_prompts([source], data_section(), LetterTokenizer(), max_prompt_tokens=99)


def test_a_pair_is_dropped_whole_when_one_view_is_too_long(tmp_path):
    rows = [{"prompt": "short", "other": "x" * 50}, {"prompt": "a", "other": "b"}]
    source = DataSource(path=str(write_jsonl(tmp_path / "a.jsonl", rows)), columns=ColumnNames(paraphrase="other"))
    made = load_prompts([source], data_section(), LetterTokenizer(), max_prompt_tokens=20)
    assert [prompt.text for prompt in made.prompts] == ["a", "b"]
