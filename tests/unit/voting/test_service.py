"""The replica as a plain class, and what importing the package costs."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from configs.schema import Plugin, VotingSection
from quorum.errors import ConfigError
from tests.builders import make_group
from voting.rules import resolve
from voting.service import Voter


def test_a_voter_tallies_and_rewards_without_ray() -> None:
    section = VotingSection()
    voter = Voter(section)
    group = make_group([[1]] * 3, texts=[r"\boxed{7}", r"\boxed{7}", "7"])
    made = voter.tally(group)
    receipt, scored = voter.reward(group, made, resolve([made], section)[0])
    assert scored.rewards.tolist() == [1, 1, 0]
    assert receipt.reward_sum == 2
    assert voter.ping() == {"pid": os.getpid(), "worker_pids": []}
    voter.close()


def test_a_prompt_may_name_its_own_extractor() -> None:
    voter = Voter(VotingSection())
    group = make_group([[1]] * 2, texts=["it is 7", r"\boxed{8}"])
    assert voter.tally(group).answers == (None, "8")
    assert voter.tally(group, "last_number").answers == ("7", "8")
    with pytest.raises(ConfigError, match="last_number"):
        voter.tally(group, "last_numbr")


def test_the_configured_extractor_keeps_its_options_when_a_prompt_names_it() -> None:
    section = VotingSection(extractor=Plugin(name="reasoning_gym", options={"fallback": "last_number"}))
    group = make_group([[1]], texts=["it is 7"])
    assert Voter(section).tally(group, "reasoning_gym").answers == ("7",)


@pytest.mark.parametrize("field", ["extractor", "equivalence", "rule"])
def test_a_wrong_plug_in_is_refused_at_the_start(field: str) -> None:
    with pytest.raises(ConfigError, match=f"voting.{field}"):
        Voter(VotingSection(**{field: Plugin(name="nothing")}))  # type: ignore[arg-type]


def test_a_plug_in_module_that_is_missing_is_refused() -> None:
    with pytest.raises(ConfigError, match="no_such_module"):
        Voter(VotingSection(), ("no_such_module",))


def test_512_completions_are_tallied_in_well_under_50_milliseconds() -> None:
    text = "We add the numbers step by step, 12 and 30, which gives 42 in total. " * 4 + r"So the answer is \boxed{%d}."
    groups = [make_group([[1]] * 16, group_id=g, texts=[text % (i % 5) for i in range(16)]) for g in range(32)]
    voter = Voter(VotingSection())
    started = time.process_time()
    tallies = [voter.tally(group) for group in groups]
    assert time.process_time() - started < 0.05
    assert sum(len(made.answers) for made in tallies) == 512


def test_voting_imports_no_heavy_library() -> None:
    script = (
        "import sys\n"
        "import voting.rewards, voting.rules, voting.service, voting.tally, voting.workers\n"
        "heavy = {'ray', 'torch', 'vllm', 'deepspeed', 'transformers', 'datasets', 'reasoning_gym', 'sympy', "
        "'math_verify', 'pyarrow', 'data', 'rollout', 'learner', 'orchestration'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "[]"
