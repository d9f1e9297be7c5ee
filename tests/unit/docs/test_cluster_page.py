"""docs/cluster.md: commands and options that it names exist, and so do files and settings."""

from __future__ import annotations

import re
import shlex

import pytest

from orchestration.cli.main import COMMANDS, load_command
from tests.unit.docs.pages import ROOT, is_setting, read_page

PAGE = read_page("cluster.md")
COMMAND_LINES = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("quorum ") and not line.startswith("quorum: ")
]


def test_the_page_has_commands_to_check() -> None:
    assert len(COMMAND_LINES) >= 8


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_a_command_line_is_one_that_the_command_accepts(line: str) -> None:
    _, name, *words = shlex.split(line)
    assert name in COMMANDS
    load_command(name).make_context(name, list(words))  # parses options and arguments, runs nothing


def test_files_and_settings_that_the_page_names_exist() -> None:
    for file in re.findall(r"`(configs/cluster/[\w.-]+)`", PAGE):
        assert (ROOT / file).is_file(), file
    names = re.findall(r"`((?:run|rollout|cluster|checkpoint|deadlines|sync|model)\.[a-z_.]+)`", PAGE)
    assert len(names) >= 6 and [name for name in names if not is_setting(name)] == []
