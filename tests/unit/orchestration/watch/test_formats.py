"""docs/formats.md names every column, docs/metrics.md every metric with its unit, its meaning and its definition."""

from __future__ import annotations

from pathlib import Path

from orchestration.group_table import COMPLETION, GROUP_SCHEMA
from orchestration.watch.metrics import METRICS

DOCS = Path(__file__).parents[4] / "docs"
FORMATS, DEFINITIONS = ((DOCS / name).read_text() for name in ("formats.md", "metrics.md"))


def rows_of(text: str) -> list[list[str]]:
    """Table rows whose first cell is a name in backticks; the name without them."""
    lines = (line for line in text.splitlines() if line.startswith("| `"))
    rows = ([cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines)
    return [[cells[0].strip("`"), *cells[1:]] for cells in rows]


def test_every_column_of_a_group_file_is_documented_in_order() -> None:
    names = [cells[0] for cells in rows_of(FORMATS)]
    start = names.index("step")
    assert names[start : start + len(GROUP_SCHEMA)] == GROUP_SCHEMA.names
    fields = names[start + len(GROUP_SCHEMA) :]
    assert fields[: len(list(COMPLETION))] == [field.name for field in COMPLETION]


def test_the_table_of_metrics_is_the_registry() -> None:
    table = DEFINITIONS.split("| metric | unit | meaning |\n|---|---|---|\n")[1].split("\n\n")[0]
    assert rows_of(table) == [[name, spec.unit, spec.help] for name, spec in METRICS.items()]


def test_every_metric_of_the_vote_and_the_audit_is_defined_below_the_table() -> None:
    defined = DEFINITIONS[DEFINITIONS.index("\n## Vote") :]
    outcomes = {f"vote/{name}_share" for name in ("unparsed", "truncated", "timed_out", "error", "stopped")}
    assert "`vote/answered_share` and the five others" in defined
    wanted = {name for name in METRICS if name.startswith(("vote/", "audit/", "eval/"))} - outcomes
    assert {name for name in wanted if f"`{name}`" not in defined} == set()


def test_formats_points_to_the_metrics_and_repeats_none() -> None:
    assert "[metrics.md](metrics.md)" in FORMATS
    assert not [cells[0] for cells in rows_of(FORMATS) if cells[0] in METRICS]
