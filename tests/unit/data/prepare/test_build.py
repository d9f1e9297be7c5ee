"""Sets of the catalog from local copies, the hub's reader and the generator; without network it says what was tried."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from data.prepare.build import prepare
from data.prepare.catalog import CATALOG, EVAL_SEED, SUFFIX, TRAIN_SEED, Generated, Origin, Recipe, find_recipe
from data.prepare.hub import read_hub
from data.prepare.overlap import normalized
from data.prepare.write import read_prepared
from quorum.errors import DataError
from quorum.reasoning_gym_tasks import load_tasks
from tests.unit.data.sample_data import write_jsonl, write_parquet


def made(tmp_path: Path, name: str, local: Path, **changes: object) -> list[tuple[str, str | None]]:
    out = tmp_path / f"{name}.parquet"
    prepare(find_recipe(name), out, local=local, **changes)
    return [(one.prompt, one.answer) for one in read_prepared(out).examples]


def write_aime(path: Path) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ID", "Year", "Question", "Answer"])
        writer.writerows([["a", 1983, "one, two", "1"], ["b", 2023, "three\nfour", "2"], ["c", 2024, "late", "3"]])
    return path


def test_aime_is_cut_by_years_from_its_csv(tmp_path: Path) -> None:
    local = write_aime(tmp_path / "aime.csv")
    assert made(tmp_path, "aime_1983_2023", local) == [("one, two", "1"), ("three\nfour", "2")]


def test_a_test_set_is_its_part_of_the_compiled_one(tmp_path: Path) -> None:
    rows = [{"Problem": f"p{i}", "Answer": i, "data_source": ("aime24", "amc23")[i % 2]} for i in range(4)]
    local = write_parquet(tmp_path / "all.parquet", rows)
    assert made(tmp_path, "aime24", local) == [("p0", "0"), ("p2", "2")]
    assert made(tmp_path, "amc23", local) == [("p1", "1"), ("p3", "3")]
    with pytest.raises(DataError, match="none of 4 rows is meant"):
        made(tmp_path, "minerva_math", local)


def test_a_set_of_its_own_is_taken_whole_and_its_columns_found(tmp_path: Path) -> None:
    local = write_jsonl(tmp_path / "amc.jsonl", [{"question": "q", "answer": 27.0}])
    assert made(tmp_path, "amc23", local) == [("q", "27")]


def test_pass_rates_are_bounded_on_both_sides_and_rows_without_one_are_left_out(tmp_path: Path) -> None:
    rates = [0.29, 0.3, 0.7, 0.71, None]
    rows = [{"problem": f"p{i}", "answer": "1", "llama8b_solve_rate": rate} for i, rate in enumerate(rates)]
    local = write_parquet(tmp_path / "big.parquet", rows)
    assert [prompt for prompt, _ in made(tmp_path, "big_math_filtered", local)] == ["p1", "p2"]


def test_columns_can_be_named_and_wrong_ones_are_told(tmp_path: Path) -> None:
    local = tmp_path / "math.json"
    local.write_text(json.dumps({"data": [{"q": "one?", "gold": "1"}]}))
    assert made(tmp_path, "math12k", local, columns={"prompt": "q", "answer": "gold"}) == [("one?", "1")]
    with pytest.raises(DataError, match=r"columns gold, q.*--columns prompt=COLUMN"):
        made(tmp_path, "math12k", local)
    with pytest.raises(DataError, match="--columns question"):
        made(tmp_path, "math12k", local, columns={"question": "q"})


def test_a_directory_of_files_is_read_in_order_of_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    write_jsonl(folder / "b.jsonl", [{"prompt": "second", "answer": "2"}])
    write_jsonl(folder / "a.jsonl", [{"prompt": "first", "answer": "1"}])
    assert [prompt for prompt, _ in made(tmp_path, "dapo", folder)] == ["first", "second"]
    (folder / "c.csv").write_text("prompt,answer\nx,1\n")
    with pytest.raises(DataError, match="several formats"):
        made(tmp_path, "dapo", folder)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "[1]", "row 0: expected an object"),
        ("a.jsonl", '{"prompt": "a"}\nnonsense', "line 2 is not JSON"),
        ("a.csv", "prompt,answer\na,1,2\n", "more or fewer fields"),
        ("a.parquet", "nonsense", "cannot be read"),
        ("a.txt", "a", "expected a file that ends in"),
        ("a.jsonl", '{"prompt": "a", "answer": null}', "must hold an answer"),
        ("a.jsonl", '{"prompt": " ", "answer": "1"}', "must hold a text"),
    ],
)
def test_a_damaged_copy_is_an_error_that_names_the_place(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        made(tmp_path, "dapo", tmp_path / name)


def test_choices_are_lettered_in_an_order_of_the_question_s_own(tmp_path: Path) -> None:
    wrong = {f"Incorrect Answer {i}": f"wrong {i}" for i in (1, 2, 3)}
    rows = [{"Question": f"Which {i}?", "Correct Answer": "right", **wrong} for i in range(20)]
    local = write_jsonl(tmp_path / "gpqa.jsonl", rows)
    examples = made(tmp_path, "gpqa", local)
    assert examples == made(tmp_path, "gpqa", local)
    for prompt, letter in examples:
        assert f"\n{letter}) right" in prompt and prompt.count("wrong") == 3
    assert {letter for _, letter in examples} == set("ABCD")


def test_the_suffix_is_in_the_prompts_only_when_asked_for(tmp_path: Path) -> None:
    local = write_jsonl(tmp_path / "d.jsonl", [{"prompt": "q", "answer": "1"}])
    assert made(tmp_path, "dapo", local) == [("q", "1")]
    assert made(tmp_path, "dapo", local, suffix=SUFFIX) == [("q" + SUFFIX, "1")]


def test_a_saved_data_set_and_a_repository_are_read_by_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([{"prompt": "q", "answer": "1"}])
    datasets.DatasetDict({"train": rows}).save_to_disk(str(tmp_path / "saved"))
    assert made(tmp_path, "dapo", tmp_path / "saved") == [("q", "1")]
    with pytest.raises(DataError, match="no split 'test'"):
        made(tmp_path, "dapo", tmp_path / "saved", split="test")
    # load_dataset reads a folder of files as it reads a repository's.
    folder = tmp_path / "repository"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", [{"prompt": "hub", "answer": "2"}])
    origin, read, provenance = read_hub("dapo", [Origin(hub=str(folder))], None)
    assert (origin.hub, read) == (str(folder), [{"prompt": "hub", "answer": "2"}])
    assert provenance["kind"] == "hub" and provenance["split"] == "train"


def test_without_network_it_says_what_was_tried_and_how_to_pass_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(DataError) as caught:
        prepare(find_recipe("aime24"), tmp_path / "aime24.parquet")
    message = str(caught.value)
    assert "ftajwar/srt_test_dataset[test]" in message and "Maxwell-Jia/AIME_2024[train]" in message
    assert "quorum data prepare aime24 --from" in message
    assert list(tmp_path.glob("*.parquet")) == []


def need_reasoning_gym() -> None:
    """Skip where it is not installed; it imports with or without pycosat."""
    try:
        load_tasks()
    except ImportError as error:
        pytest.skip(str(error))


SUMS = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1, "operators": ["+"]}
"""Few questions, so that different seeds give the same ones."""


def sums(seed: int, size: int, avoid: Generated | None = None) -> Recipe:
    generated = Generated(task="basic_arithmetic", options=SUMS, size=size, seed=seed, avoid=avoid)
    return Recipe(name="sums", role="train", what="", generated=generated)


def questions(path: Path) -> list[str]:
    return [normalized(one.prompt) for one in read_prepared(path).examples]


def test_questions_that_occur_twice_or_in_the_evaluation_are_left_out_of_training(tmp_path: Path) -> None:
    need_reasoning_gym()
    evaluation = sums(EVAL_SEED, 40)
    manifest = prepare(sums(TRAIN_SEED, 200, avoid=evaluation.generated), tmp_path / "train.parquet")
    prepare(evaluation, tmp_path / "eval.parquet")
    train, evaluated = questions(tmp_path / "train.parquet"), questions(tmp_path / "eval.parquet")
    assert len(set(train)) == len(train) and len(set(evaluated)) == len(evaluated)
    assert not set(train) & set(evaluated)
    assert manifest["num_in_evaluation"] > 0 and manifest["num_repeated"] > 0
    assert len(train) == 200 - manifest["num_repeated"] - manifest["num_in_evaluation"]


def test_every_generated_training_set_avoids_the_evaluation_set_of_its_level(tmp_path: Path) -> None:
    levels = [one for one in CATALOG.values() if one.generated and one.role == "train"]
    assert len(levels) == 11
    for recipe in levels:
        assert recipe.generated is not None
        other = find_recipe(f"{recipe.name}_eval").generated
        assert other is not None and recipe.generated.avoid == other
        assert (other.task, other.options) == (recipe.generated.task, recipe.generated.options)
        assert recipe.generated.seed + recipe.generated.size <= other.seed


def bitwise(seed: int) -> Recipe:
    generated = Generated(task="bitwise_arithmetic", options={"difficulty": 1}, size=8, seed=seed)
    return Recipe(name="bits", role="train", what="", generated=generated)


def test_entry_i_is_made_from_seed_plus_i(tmp_path: Path) -> None:
    need_reasoning_gym()
    for seed, name in ((TRAIN_SEED, "a"), (TRAIN_SEED + 1, "b")):
        prepare(bitwise(seed), tmp_path / f"{name}.parquet")
    first, second = (read_prepared(tmp_path / f"{name}.parquet").examples for name in ("a", "b"))
    assert [one.prompt for one in first[1:]] == [one.prompt for one in second[:-1]]


def test_generating_into_the_evaluation_s_seeds_is_refused(tmp_path: Path) -> None:
    need_reasoning_gym()
    with pytest.raises(DataError, match="share seeds"):
        prepare(sums(EVAL_SEED - 5, 10, avoid=sums(EVAL_SEED, 40).generated), tmp_path / "a.parquet")


def test_an_unknown_set_names_the_nearest() -> None:
    with pytest.raises(DataError, match="did you mean math500"):
        find_recipe("math-500")
