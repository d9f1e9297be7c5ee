"""docs/formats.md names every column and every metric, with its unit."""

from __future__ import annotations

from pathlib import Path

from orchestration.group_table import COMPLETION, GROUP_SCHEMA
from orchestration.watch.metrics import METRICS

FORMATS = (Path(__file__).parents[4] / "docs" / "formats.md").read_text()


def documented_rows() -> dict[str, list[str]]:
    rows = (line.strip("|").split("|") for line in FORMATS.splitlines() if line.startswith("| `"))
    return {cells[0].strip().strip("`"): [cell.strip() for cell in cells[1:]] for cells in rows}


def test_every_column_of_a_group_file_is_documented_in_order() -> None:
    names = list(documented_rows())
    start = names.index("step")
    assert names[start : start + len(GROUP_SCHEMA)] == GROUP_SCHEMA.names
    fields = names[start + len(GROUP_SCHEMA) :]
    assert fields[: len(list(COMPLETION))] == [field.name for field in COMPLETION]


def test_every_metric_is_documented_with_its_unit_and_no_other() -> None:
    rows = {name: cells for name, cells in documented_rows().items() if "/" in name}
    assert rows.keys() == METRICS.keys()
    for name, spec in METRICS.items():
        assert rows[name][0] == spec.unit
