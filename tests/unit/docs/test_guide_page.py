"""docs/guide.md: its configuration loads, and the metrics, settings and messages that it names exist."""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path

from orchestration.registries import load_run_config
from orchestration.watch.metrics import METRICS
from tests.unit.docs.pages import ROOT, is_setting, read_page

PAGE = read_page("guide.md")
SECTIONS = ("run", "model", "data", "rollout", "voting", "learner", "sync", "evaluation", "checkpoint", "cluster")
SOURCES = ("configs", "data", "rollout", "voting", "learner", "orchestration")


def rows(start: str) -> list[list[str]]:
    """Cells of the table whose header begins so."""
    lines = PAGE[PAGE.index(start) :].splitlines()[2:]
    table = takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def test_the_configuration_loads(tmp_path: Path) -> None:
    [text] = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "my.yaml").write_text(text)
    assert load_run_config(str(tmp_path / "my.yaml"), []).rollout.completions_per_prompt == 16


def test_every_metric_and_setting_that_it_names_exists() -> None:
    named = set(re.findall(r"`([a-z_]+/[a-z_]+)`", PAGE))
    assert len(named) > 12 and sorted(named - METRICS.keys()) == []
    settings = {name for name in re.findall(r"`([a-z]+\.[a-z_.]+)(?::|=|`)", PAGE) if name.split(".")[0] in SECTIONS}
    assert len(settings) > 20 and [name for name in sorted(settings) if not is_setting(name)] == []


def test_every_message_that_it_explains_is_in_the_source() -> None:
    source = "".join(path.read_text() for name in SOURCES for path in sorted((ROOT / name).rglob("*.py")))
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    parts = [
        part.strip()
        for row in rows("| the line says |")
        for message in re.findall(r"`([^`]+)`", row[0])
        for part in message.split("...")
        if part.strip()
    ]
    assert len(parts) > 15
    assert [part for part in parts if part not in source] == []
