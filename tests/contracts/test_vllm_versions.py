"""The adapter's calls fit every vLLM it supports: the installed one, and the oldest by a fixture of its declarations.

Both are read as source, so nothing of vLLM is imported.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.vllm_signatures import Call, calls, declarations, parameters, signature, worker_calls
from tests.source_rules import ROOT, parse

OLDEST = ROOT / "tests" / "data" / "vllm-0.26.0.json"
ADAPTER = [ROOT / "rollout" / "engines" / name for name in ("vllm.py", "vllm_update.py", "vllm_calls.py")]
NEWER_CALLS = {"update_weight_version"}
"""Made only where `finish_weight_update` takes a `weight_version`."""
USED_ATTRIBUTES = {
    "AsyncLLM": ("engine_core", "output_processor", "errored"),
    "AsyncMPClient": ("outputs_queue",),
    "OutputProcessor": ("request_states",),
    "RequestState": ("external_req_id", "detokenizer"),
    "SlowIncrementalDetokenizer": ("num_output_tokens",),
    "RequestOutput": ("outputs", "finished", "num_cached_tokens", "prompt_logprobs"),
    "CompletionOutput": ("token_ids", "text", "logprobs", "finish_reason"),
    "Worker": ("weight_transfer_engine", "_weight_update_active"),
    "WeightTransferEngine": ("reset_weight_update_target", "parallel_config", "model", "model_config", "device"),
    "_PromptOptions": ("cache_salt",),
    "TokensPrompt": ("prompt_token_ids",),
}


@pytest.fixture(scope="module", params=["0.26.0", "installed"])
def vllm(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    if request.param == "0.26.0":
        return json.loads(OLDEST.read_text(encoding="utf-8"))
    found = importlib.util.find_spec("vllm")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("vLLM is not installed")
    return declarations(Path(found.submodule_search_locations[0]))


def misfits(made: list[Call], methods: dict[str, str]) -> list[str]:
    """Calls that their method does not take."""
    wrong = []
    for call in made:
        try:
            declared = signature(methods[call.method])
            declared.bind(None, *[None] * call.num_positional, **dict.fromkeys(call.keywords))
        except (KeyError, TypeError) as exc:
            wrong.append(f"line {call.line}: {call.method}: {exc}")
    return wrong


def test_every_call_of_the_engine_fits(vllm: dict[str, dict[str, Any]]) -> None:
    made = [call for path in ADAPTER for call in calls(path, ("self._llm", "llm", "AsyncLLM"))]
    methods = vllm["AsyncLLM"]["methods"]
    called = {call.method for call in made}
    assert {"generate", "abort", "resume_generation", "reset_prefix_cache"} <= called
    assert {"collective_rpc", "sleep", "wake_up", "from_engine_args"} <= called
    stamps = "weight_version" in signature(methods["finish_weight_update"]).parameters
    assert stamps == (NEWER_CALLS <= set(methods))
    required = [call for call in made if stamps or call.method not in NEWER_CALLS]
    assert misfits(required, methods) == []
    to_core = [call for path in ADAPTER for call in calls(path, ("llm.engine_core",))]
    assert [call.method for call in to_core] == ["pause_scheduler_async"]
    assert misfits(to_core, vllm["AsyncMPClient"]["methods"]) == []


def test_every_call_of_the_workers_fits(vllm: dict[str, dict[str, Any]]) -> None:
    made = [call for path in ADAPTER for call in worker_calls(path)]
    own = [call for call in made if call.method.startswith("quorum_")]
    theirs = [call for call in made if call not in own]
    assert {call.method for call in theirs} == {
        "init_weight_transfer_engine",
        "start_weight_update",
        "update_weights",
        "finish_weight_update",
        "check_health",
    }
    assert misfits(theirs, vllm["Worker"]["methods"]) == []
    extension = parse(ROOT / "rollout" / "transfer" / "worker.py").body[-1]
    ours = {node.name: parameters(node.args) for node in extension.body if hasattr(node, "args")}  # type: ignore[attr-defined]
    assert misfits(own, ours) == []


def test_every_attribute_that_is_read_exists(vllm: dict[str, dict[str, Any]]) -> None:
    missing = [
        f"{owner}.{name}"
        for owner, names in USED_ATTRIBUTES.items()
        for name in names
        if name not in vllm[owner]["attributes"]
    ]
    assert missing == []


def test_every_sampling_parameter_exists(vllm: dict[str, dict[str, Any]]) -> None:
    import ast

    given = {
        word.arg
        for node in ast.walk(parse(ADAPTER[0]))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "SamplingParams"
        for word in node.keywords
    }
    assert {"seed", "logprobs", "output_kind", "prompt_logprobs"} <= given
    assert given - set(vllm["SamplingParams"]["attributes"]) == set()


def test_the_receivers_override_what_the_base_declares(vllm: dict[str, dict[str, Any]]) -> None:
    import ast

    receiver = next(
        node
        for node in parse(ROOT / "rollout" / "transfer" / "receiver.py").body
        if isinstance(node, ast.ClassDef) and node.name == "BucketReceiver"
    )
    declared = vllm["WeightTransferEngine"]["methods"]
    own = {node.name: parameters(node.args) for node in receiver.body if isinstance(node, ast.FunctionDef)}
    shared = set(own) & set(declared)
    assert {"__init__", "init_transfer_engine", "start_weight_update", "receive_weights", "shutdown"} <= shared
    assert {name: own[name] for name in shared} == {name: declared[name] for name in shared}
    assert set(vllm["WeightTransferEngine"]["abstract"]) <= set(own), "a receiver could not be made"
    register = list(calls(ROOT / "rollout" / "transfer" / "__init__.py", ("WeightTransferEngineFactory",)))
    assert [call.method for call in register] == ["register_engine"]
    signature(vllm["WeightTransferEngineFactory"]["methods"]["register_engine"]).bind(None, "name", "module", "class")
