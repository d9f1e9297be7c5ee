"""vLLM's engine arguments: ours by device, the user's by pass-through, checked by name and type before a start."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from quorum.registry import Options
from rollout.settings import SamplerSettings
from rollout.transfer import ENGINE_NAMES

SHARED_GPU_SHARE = 0.35
"""Of a GPU that the sampler shares with the learner, the part that vLLM takes unless told otherwise."""
RECEIPT_EXTENSION = "rollout.transfer.worker.ReceiptExtension"


class VllmOptions(Options):
    """Any further argument of vLLM's `AsyncEngineArgs`; `validate_engine_options` checks names and types."""

    model_config = ConfigDict(extra="allow", frozen=True)


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """What differs between devices. Nothing else in this package asks which device it is on."""

    environment: Mapping[str, str]
    """Set before vLLM is imported."""
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    """Defaults that the user's options may replace."""
    refused: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    """Option -> (value, why it cannot be)."""
    single_worker_executor: str | None = None
    """Executor of an engine with one worker; None leaves it to vLLM."""
    min_batched_tokens: int | None = None
    """Lower bound of max_num_batched_tokens, besides max_model_len; None leaves it to vLLM."""
    can_sleep: bool = False
    """Whether an engine can give the device's memory up and take it back."""
    has_own_kv_budget: bool = False
    """Whether settings.kv_cache_gib sizes the KV cache."""


PROFILES = {
    "cpu": DeviceProfile(
        # Without SPLIT_KV=0 tokens and logprobs depend on the load. Dynamo would compile a helper of logprobs, which
        # needs a C++ compiler.
        environment={"VLLM_CPU_ATTN_SPLIT_KV": "0", "TORCHDYNAMO_DISABLE": "1"},
        engine_args={
            "enforce_eager": True,
            "enable_chunked_prefill": False,
            "block_size": 32,
            "enable_prefix_caching": True,
            "max_num_seqs": 256,
        },
        refused={"enable_chunked_prefill": (True, "a request's seed with chunked prefill kills vLLM's CPU engine")},
        # The worker runs inside the engine core. vLLM's choice on a CPU, a worker process that talks to the core at
        # every token, costs a quarter of the speed where samplers share cores. By name, "uni" is turned into "mp".
        single_worker_executor="vllm.v1.executor.uniproc_executor.UniProcExecutor",
        min_batched_tokens=4096,
        has_own_kv_budget=True,
    ),
    "cuda": DeviceProfile(environment={}, engine_args={"enable_prefix_caching": True}, can_sleep=True),
}

OWNED = {
    "model": "model.path",
    "tokenizer": "model.path",
    "revision": "model.revision",
    "trust_remote_code": "model.trust_remote_code",
    "dtype": "rollout.dtype",
    "max_model_len": "rollout.max_model_len",
    "tensor_parallel_size": "rollout.tensor_parallel_size",
    "seed": "run.seed",
    "weight_transfer_config": "sync.backend",
    "logprobs_mode": "Quorum (the learner needs the log-probabilities of the distribution sampled from)",
    "generation_config": "Quorum (no hidden sampling defaults)",
    "worker_extension_cls": "Quorum (receipts of weight transfers)",
}
"""Engine arguments that Quorum sets itself -> where the value comes from."""


def set_environment(settings: SamplerSettings, environ: MutableMapping[str, str]) -> None:
    """Set what vLLM reads at import time. Call before the first `import vllm` of the process."""
    profile = PROFILES[settings.device]
    environ.update(profile.environment)
    environ["VLLM_LOGGING_LEVEL"] = settings.log_level
    environ["VLLM_NO_USAGE_STATS"] = "1"
    if "TMPDIR" in environ:
        environ["VLLM_RPC_BASE_PATH"] = environ["TMPDIR"]  # vLLM removes none of its sockets
    if profile.has_own_kv_budget:
        environ["VLLM_CPU_OMP_THREADS_BIND"] = settings.cpu_binding or "nobind"
        environ["OMP_NUM_THREADS"] = str(settings.num_threads)
        # It would override kv_cache_memory_bytes, in whole GiB.
        environ.pop("VLLM_CPU_KVCACHE_SPACE", None)


def engine_arguments(settings: SamplerSettings) -> dict[str, Any]:
    """Arguments of `AsyncEngineArgs`: the device's defaults, then the user's options, then what Quorum owns."""
    profile = PROFILES[settings.device]
    arguments: dict[str, Any] = {"disable_log_stats": True, **profile.engine_args}
    if profile.min_batched_tokens is not None:
        arguments["max_num_batched_tokens"] = max(profile.min_batched_tokens, settings.max_model_len)
    if profile.has_own_kv_budget:
        arguments["kv_cache_memory_bytes"] = int(settings.kv_cache_gib * 2**30)
    if settings.weight_backend == "ipc":
        arguments["gpu_memory_utilization"] = SHARED_GPU_SHARE
    if settings.shares_device and profile.can_sleep:
        arguments["enable_sleep_mode"] = True
    if settings.tensor_parallel_size > 1:
        # Inside a Ray placement group vLLM would otherwise start Ray actors of its own.
        arguments["distributed_executor_backend"] = "mp"
    elif profile.single_worker_executor is not None:
        arguments["distributed_executor_backend"] = profile.single_worker_executor
    arguments.update(settings.engine_options)
    arguments.update(
        model=settings.model,
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
        dtype=settings.dtype,
        max_model_len=settings.max_model_len,
        tensor_parallel_size=settings.tensor_parallel_size,
        seed=settings.seed,
        logprobs_mode="processed_logprobs",
        generation_config="vllm",
        worker_extension_cls=RECEIPT_EXTENSION,
        weight_transfer_config={"backend": ENGINE_NAMES[settings.weight_backend]},
    )
    return arguments


def validate_engine_options(
    options: Mapping[str, Any], *, device: str | None = None, max_model_len: int | None = None
) -> list[str]:
    """Check engine options against the installed vLLM, without starting anything.

    Args:
        options: names and values as given by the user.
        device: "cpu" or "cuda" checks what that device cannot do as well.
        max_model_len: checks the batch budget of a device that cannot split a prompt.

    Returns:
        One line per problem, each with the fix; empty when all is well. Types are not checked where vLLM is
        not installed.
    """
    problems = []
    known = _argument_types() if set(options) - set(OWNED) else {}
    for name, value in options.items():
        if name in OWNED:
            problems.append(f"rollout.engine.options.{name} is set by {OWNED[name]}; leave it out")
        elif known and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "see vLLM's engine arguments"
            problems.append(f"rollout.engine.options.{name}: vLLM has no engine argument of this name; {hint}")
        elif known:
            problems.extend(_type_problems(name, value, known[name]))
    problems.extend(_device_problems(options, device, max_model_len))
    return problems


def _device_problems(options: Mapping[str, Any], device: str | None, max_model_len: int | None) -> list[str]:
    if device is None:
        return []
    profile = PROFILES[device]
    problems = [
        f"rollout.engine.options.{name}={value!r} cannot be on {device}: {why}; leave it out"
        for name, (value, why) in profile.refused.items()
        if options.get(name) == value
    ]
    budget = options.get("max_num_batched_tokens")
    if profile.min_batched_tokens is not None and isinstance(budget, int) and budget < (max_model_len or 0):
        problems.append(
            f"rollout.engine.options.max_num_batched_tokens {budget:,} is below the context of {max_model_len:,} "
            f"tokens, and {device} cannot split a prompt; raise it to {max_model_len:,} or leave it out"
        )
    return problems


def _type_problems(name: str, value: Any, hint: Any) -> list[str]:
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except Exception:  # noqa: BLE001 - a type that pydantic cannot describe is left to vLLM
        return []
    try:
        adapter.validate_python(value, strict=not isinstance(value, (list, dict)))
    except ValidationError as exc:
        wanted = "; ".join(dict.fromkeys(error["msg"] for error in exc.errors()))
        return [f"rollout.engine.options.{name} is {value!r} ({type(value).__name__}): {wanted}"]
    return []


@cache
def _argument_types() -> dict[str, Any]:
    """Name -> type of every argument of the installed vLLM's AsyncEngineArgs; empty without vLLM."""
    try:
        from vllm import AsyncEngineArgs
    except ImportError:
        return {}
    hints = _type_hints(AsyncEngineArgs)
    return {f.name: hints.get(f.name, Any) for f in dataclasses.fields(AsyncEngineArgs)}


def _type_hints(owner: type) -> dict[str, Any]:
    """`get_type_hints`, with Any for names that the class's module imports for type checkers only."""
    unknown: dict[str, Any] = {}
    while True:
        try:
            return get_type_hints(owner, localns=unknown)
        except NameError as exc:
            if exc.name is None or exc.name in unknown:
                return {}
            unknown[exc.name] = Any
