"""docs/data.md: its commands parse, and the sets, presets and settings that it names exist."""

from __future__ import annotations

import re
import shlex

import pytest

from configs.load import preset_names
from data.prepare.catalog import CATALOG
from orchestration.cli.main import load_command
from tests.unit.docs.pages import ROOT, is_setting, read_page

PAGE = read_page("data.md")
COMMAND_LINES = [
    line.partition("#")[0].strip()
    for block in re.findall(r"^```\w*\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
    if line.startswith("quorum ")
]


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_a_command_line_is_one_that_the_command_accepts(line: str) -> None:
    _, name, *words = shlex.split(line)
    command = load_command(name)
    if name == "data":
        command, words = command.commands[words[0]], words[1:]
    command.make_context(name, list(words))  # parses options and arguments, runs nothing


def test_the_page_has_commands_and_every_set_is_in_its_table() -> None:
    assert len(COMMAND_LINES) >= 12
    assert [name for name in CATALOG if not name.startswith("rg_") and f"`{name}`" not in PAGE] == []
    prepared = [word for line in COMMAND_LINES if " prepare " in line for word in line.split()[3:]]
    assert {word for word in prepared if word in CATALOG} >= {"dapo", "math12k", "rg_bitwise_3"}


def test_presets_that_the_page_names_exist_and_every_one_belongs_to_a_row() -> None:
    table = PAGE.partition("| presets (`paper/...`)")[2].partition("\n\n")[0]
    named = re.findall(r"`([\w.-]+)`", table)
    presets = [name.removeprefix("paper/") for name in preset_names() if name.startswith("paper/")]
    whole = [name for name in named if not name.startswith("-") and "..." not in name and "MODEL" not in name]
    assert len(whole) > 25 and [name for name in whole if name not in presets] == []
    prefixes = tuple(name.partition("...")[0].partition("MODEL")[0] for name in named if not name.startswith("-"))
    bases = ("base", "eval-math500", "qwen3-14b-base")
    assert [name for name in presets if not name.startswith(prefixes) and name not in bases] == []


def test_settings_and_files_that_the_page_names_exist() -> None:
    names = re.findall(r"`((?:voting|data|learner)\.[a-z_.]+)[:=`]", PAGE)
    assert len(names) >= 4 and [name for name in names if not is_setting(name)] == []
    for file in re.findall(r"`((?:configs|orchestration)/[\w./-]+)`", PAGE):
        assert (ROOT / file).exists(), file
