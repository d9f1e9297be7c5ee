"""The replica as a plain class, what a group costs it, and what importing the package costs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from configs.schema import Plugin, VotingSection
from quorum.errors import ConfigError
from quorum.types import RevealedLabel
from tests.builders import make_group
from tests.votes import boxed_group, is_running, left_after, section_of
from voting.replicas import Voter
from voting.resolve import resolve


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def test_a_voter_tallies_and_rewards_without_ray_and_without_processes(loop: asyncio.AbstractEventLoop) -> None:
    section = VotingSection()
    voter = Voter(section)
    group = make_group([[1]] * 3, texts=[r"\boxed{7}", r"\boxed{7}", "7"])
    made = loop.run_until_complete(voter.tally(group))
    receipts, scored = loop.run_until_complete(voter.reward([made], resolve([made], section), group))
    [receipt] = receipts
    assert scored.rewards.tolist() == [1, 1, 0]
    assert receipt.reward_sum == 2
    assert loop.run_until_complete(voter.ping()) == {"pid": os.getpid(), "worker_pids": []}
    loop.run_until_complete(voter.close())


def test_a_voter_with_workers_starts_them_with_itself_and_closes_them(loop: asyncio.AbstractEventLoop) -> None:
    voter = Voter(section_of(equivalence="math_verify"))
    pids = loop.run_until_complete(voter.ping())["worker_pids"]
    assert len(pids) == 2
    assert all(is_running(pid) for pid in pids)
    loop.run_until_complete(voter.close())
    assert left_after(pids, 3) == []


def test_a_jury_comes_as_groups_or_as_revealed_labels(loop: asyncio.AbstractEventLoop) -> None:
    voter = Voter(section_of(labels="ground_truth"))
    label = RevealedLabel(prompt_id="p", answer="3", provenance="ground_truth")
    group = boxed_group(["7", "3"])
    revealed = loop.run_until_complete(voter.tally(group, None, "ground_truth", (label,)))
    assert (revealed.jury, revealed.jury_provenance) == ((1,), "ground_truth")
    others = [boxed_group(["3", "9"], 1), boxed_group([None], 2)]
    taught = loop.run_until_complete(voter.tally(group, None, "teacher", (), None, *others))
    assert (taught.jury, taught.jury_provenance) == ((1, 2, -1), "teacher")
    assert loop.run_until_complete(voter.tally(group)).jury == ()


@pytest.mark.parametrize("field", ["extractor", "equivalence", "rule", "labels"])
def test_a_wrong_plug_in_is_refused_at_the_start(field: str) -> None:
    with pytest.raises(ConfigError, match=f"voting.{field}"):
        Voter(VotingSection(**{field: Plugin(name="nothing")}))


def test_a_plug_in_module_that_is_missing_is_refused() -> None:
    with pytest.raises(ConfigError, match="no_such_module"):
        Voter(VotingSection(), ("no_such_module",))


def test_512_completions_are_tallied_in_well_under_50_milliseconds(loop: asyncio.AbstractEventLoop) -> None:
    text = "We add the numbers step by step, 12 and 30, which gives 42 in total. " * 4 + r"So the answer is \boxed{%d}."
    groups = [make_group([[1]] * 16, group_id=g, texts=[text % (i % 5) for i in range(16)]) for g in range(32)]
    voter = Voter(VotingSection())

    async def tally_all() -> int:
        tallies = await asyncio.gather(*(voter.tally(group) for group in groups))
        return sum(len(made.answers) for made in tallies)

    started = time.process_time()
    assert loop.run_until_complete(tally_all()) == 512
    assert time.process_time() - started < 0.05


def test_voting_imports_no_heavy_library() -> None:
    script = (
        "import pkgutil, sys, voting\n"
        "names = [module.name for module in pkgutil.walk_packages(voting.__path__, 'voting.')]\n"
        "for name in names:\n"
        "    __import__(name)\n"
        "heavy = {'ray', 'torch', 'vllm', 'deepspeed', 'transformers', 'datasets', 'reasoning_gym', 'sympy', "
        "'math_verify', 'pyarrow', 'data', 'rollout', 'learner', 'orchestration'}\n"
        "print(len(names) > 15, sorted(heavy & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "True []"
