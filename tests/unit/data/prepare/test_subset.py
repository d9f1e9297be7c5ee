"""Parts and variants: which prompts and labels, as a function of seed and ids alone."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.schema import DataSource
from data.prepare.subset import SubsetOptions, id_of, labels_path, make_labels, make_subset
from data.prepare.write import Example, content_keys, read_prepared, write_prepared
from data.prompts import load_prompts
from data.references import load_label_table
from quorum.errors import ConfigError, DataError
from tests.unit.data.sample_data import LetterTokenizer, data_section

N = 60


@pytest.fixture
def train(tmp_path: Path) -> Path:
    texts = [f"prompt {i}" for i in range(N)]
    examples = [Example(k, t, "unit", str(i)) for i, (k, t) in enumerate(zip(content_keys(texts), texts, strict=True))]
    write_prepared(tmp_path / "set.parquet", examples, {})
    return tmp_path / "set.parquet"


def write_figures(train: Path, figures: dict[int, float | None], column: str = "agreement") -> Path:
    ours = read_prepared(train)
    rows = [{"prompt_id": id_of(ours, ours.examples[i]), column: figure} for i, figure in figures.items()]
    path = train.with_name("table.parquet")
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def numbers(path: Path) -> list[int]:
    return [int(one.prompt.split()[1]) for one in read_prepared(path).examples]


def subset(train: Path, table: Path | None = None, **options: object) -> list[int]:
    out = train.with_name("out.parquet")
    make_subset(train, out, SubsetOptions(**options), table)  # type: ignore[arg-type]
    return numbers(out)


def test_the_easiest_third_by_agreement_in_the_set_s_order_or_sorted(train: Path) -> None:
    table = write_figures(train, {i: ((i * 7) % N) / N for i in range(N)})
    easiest = [i for i in range(N) if (i * 7) % N >= 40]
    assert subset(train, table, by="agreement", easiest=Fraction(1, 3)) == easiest
    ordered = sorted(easiest, key=lambda i: -((i * 7) % N))
    assert subset(train, table, by="agreement", easiest=Fraction(1, 3), sort=True) == ordered


def test_quantiles_tile_the_set(train: Path) -> None:
    table = write_figures(train, {i: 0.5 if i < 40 else i / N for i in range(N)}, "pass_rate")
    parts = [subset(train, table, by="pass_rate", quantiles=(a / 3, (a + 1) / 3)) for a in range(3)]
    assert [len(part) for part in parts] == [20, 20, 20]
    assert sorted(sum(parts, [])) == list(range(N)) and parts[2] == list(range(40, 60))


def test_values_take_both_bounds_and_prompts_without_a_figure_are_counted(train: Path) -> None:
    table = write_figures(train, {0: 0.3, 1: 0.7, 2: 0.71, 3: None}, "pass_rate")
    out = train.with_name("out.parquet")
    manifest = make_subset(train, out, SubsetOptions(by="pass_rate", values=(0.3, 0.7)), table)
    assert numbers(out) == [0, 1] and manifest["num_without_figure"] == N - 3


def test_a_share_and_what_it_leaves_out_are_the_set(train: Path) -> None:
    part, rest = subset(train, share=0.3), subset(train, share=0.3, invert=True)
    assert 8 <= len(part) <= 30 and sorted(part + rest) == list(range(N))
    assert subset(train, share=0.3, seed=1) != part


def test_what_is_drawn_does_not_depend_on_order_or_file(train: Path, tmp_path: Path) -> None:
    ours = read_prepared(train)
    other = tmp_path / "elsewhere" / "turned.parquet"
    write_prepared(other, ours.examples[::-1], {}, name=ours.name)
    options = {"share": 0.5, "noise": 0.5, "labelled": 0.5, "seed": 3}
    assert sorted(subset(train, **options)) == sorted(subset(other, **options))
    first = load_label_table(str(labels_path(train.with_name("out.parquet"))))
    second = load_label_table(str(labels_path(other.with_name("out.parquet"))))
    ids = [id_of(ours, one) for one in ours.examples]
    assert [first.get(i) for i in ids] == [second.get(i) for i in ids] and len(first) > 5


@pytest.mark.parametrize("kind", ["swap", "plus_one"])
def test_noise_makes_that_share_of_the_labels_wrong_and_no_reference(train: Path, kind: str) -> None:
    out = train.with_name("noisy.parquet")
    manifest = make_subset(train, out, SubsetOptions(noise=0.4, noise_kind=kind))  # type: ignore[arg-type]
    ours = read_prepared(out)
    assert ours.examples == read_prepared(train).examples
    labels = load_label_table(str(labels_path(out)))
    pairs = [(str(labels.get(id_of(ours, one))), str(one.answer)) for one in ours.examples]
    wrong = [(label, answer) for label, answer in pairs if label != answer]
    assert len(wrong) == manifest["num_wrong_labels"] and 0.2 * N < len(wrong) < 0.6 * N
    if kind == "plus_one":
        assert all(int(label) == int(answer) + 1 for label, answer in wrong)
    else:
        assert {label for label, _ in wrong} <= {answer for _, answer in pairs}


def test_few_labels_are_a_table_that_a_run_joins_by_prompt_id(train: Path) -> None:
    out = train.with_name("few.parquet")
    manifest = make_subset(train, out, SubsetOptions(labelled=0.2))
    labels = load_label_table(str(labels_path(out)))
    source = DataSource(path=str(out))
    prompts = load_prompts([source], data_section(), LetterTokenizer(), max_prompt_tokens=99).prompts
    labelled = [prompt for prompt in prompts if labels.get(prompt.prompt_id) is not None]
    assert len(labelled) == manifest["num_labels"] == len(labels) and 0 < len(labelled) < N / 2
    assert manifest["num_wrong_labels"] == 0
    more = make_labels(read_prepared(train), read_prepared(train).examples, SubsetOptions(labelled=0.5))
    fewer = make_labels(read_prepared(train), read_prepared(train).examples, SubsetOptions(labelled=0.2))
    assert fewer.items() <= more.items()


def test_contradictions_and_tables_of_other_data_are_refused(train: Path) -> None:
    with pytest.raises(ConfigError, match="--by"):
        subset(train, easiest=Fraction(1, 3))
    with pytest.raises(ConfigError, match="different choices"):
        subset(train, write_figures(train, {0: 1.0}), by="agreement", easiest=Fraction(1, 3), values=(0, 1))
    with pytest.raises(ConfigError, match="share between 0 and 1"):
        subset(train, noise=1.5)
    with pytest.raises(ConfigError, match="is the set itself"):
        make_subset(train, train, SubsetOptions())
    table = train.with_name("foreign.parquet")
    pq.write_table(pa.table({"prompt_id": ["f" * 32], "agreement": [1.0]}), table)
    with pytest.raises(DataError, match="no row belongs"):
        subset(train, table, by="agreement")
    with pytest.raises(DataError, match="pass_rate"):
        subset(train, table, by="pass_rate")


def test_plus_one_needs_whole_numbers_and_swap_two_answers(tmp_path: Path) -> None:
    for answers in (["x", "y"], ["3", "3"]):
        examples = [Example(f"k{i}", f"p{i}", "unit", answer) for i, answer in enumerate(answers)]
        write_prepared(tmp_path / "set.parquet", examples, {})
        kind = "plus_one" if answers[0] == "x" else "swap"
        with pytest.raises(DataError, match="whole number" if kind == "plus_one" else "all references are equal"):
            subset(tmp_path / "set.parquet", noise=1.0, noise_kind=kind)
