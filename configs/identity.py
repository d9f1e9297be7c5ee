"""Which settings make a run's history what it is: resume refuses to change them, and only them."""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePosixPath
from typing import Any

from configs.schema import RunConfig

_OPERATIONAL = (
    "run.dir",
    "run.num_steps",
    "run.max_empty_steps",
    "rollout.engine.options",
    "rollout.num_samplers",
    "rollout.min_samplers",
    "rollout.tensor_parallel_size",
    "rollout.fleet",
    "rollout.dispatch",
    "rollout.restart",
    "rollout.autoscale",
    "rollout.max_model_len",
    "voting.service",
    "voting.alarms",
    "learner.num_ranks",
    "learner.zero_stage",
    "learner.offload",
    "learner.sequence_parallel_size",
    "learner.max_tokens_per_micro_batch",
    "learner.gradient_checkpointing",
    "learner.max_restarts",
    "sync",
    "evaluation",
    "checkpoint",
    "guard",
    "cluster",
    "deadlines",
    "report",
)
"""Fields and sections that a resumed run may change. Whatever is not named here is identity: a new field is safe."""

_BIT_AFFECTING = (
    "rollout.engine.options",
    "rollout.tensor_parallel_size",
    "rollout.fleet",
    "learner.num_ranks",
    "learner.zero_stage",
    "learner.offload",
    "learner.sequence_parallel_size",
    "learner.max_tokens_per_micro_batch",
    "learner.gradient_checkpointing",
    "cluster.device",
    "guard",
    "voting.service.cpu_seconds",
    "voting.service.group_seconds",
)
"""Operational fields after whose change the same run goes on, but no longer with the same bits."""

_PATHS = (
    "model.path",
    "data.train.*.path",
    "data.train.*.references",
    "data.groups",
    "voting.labels.options.path",
    "voting.labels.options.model",
    "voting.prompts.table",
)
"""Compared by their last part: a directory may move, `Qwen2.5-Math-7B` may not become another model."""


def config_identity(config: RunConfig) -> dict[str, Any]:
    """The identity fields by dotted name, with plain JSON values."""
    leaves = _flatten(config.model_dump(mode="json"))
    kept = {name: value for name, value in leaves.items() if not _is_under(name, _OPERATIONAL)}
    return {name: _last_part(value) if value and _is_path(name) else value for name, value in kept.items()}


def config_identity_hash(config: RunConfig) -> str:
    """Hash (32 hex digits) of what changes the history: model, data, seed, algorithm, k, prompts per step, sampling,
    voting, learning rate and the like. Equal for runs that differ only in operation (samplers, steps, paths)."""
    return _hash(config_identity(config))


def identity_differences(old: RunConfig, new: RunConfig) -> list[str]:
    """Dotted names of identity fields that differ, sorted: empty exactly when the identity hashes are equal."""
    return _differing(config_identity(old), config_identity(new))


def bit_differences(old: RunConfig, new: RunConfig) -> list[str]:
    """Dotted names of changed fields that a resume allows but after which bit equality with the old run ends."""
    before, after = (_flatten(config.model_dump(mode="json")) for config in (old, new))
    return [name for name in _differing(before, after) if _is_under(name, _BIT_AFFECTING)]


def result_hash(config: RunConfig) -> str:
    """Hash (32 hex digits) of what a run's results follow from: its identity, its length and how it is evaluated.

    Equal for runs that may stand for one another in a comparison.
    """
    return _hash(_result_fields(config))


def result_differences(old: RunConfig, new: RunConfig) -> list[str]:
    """Dotted names of fields that differ, sorted: empty exactly when the result hashes are equal."""
    return _differing(_result_fields(old), _result_fields(new))


def _result_fields(config: RunConfig) -> dict[str, Any]:
    leaves = _flatten(config.model_dump(mode="json"))
    measured = {name: value for name, value in leaves.items() if _is_under(name, ("run.num_steps", "evaluation"))}
    return config_identity(config) | {
        name: _last_part(value) if value and name.endswith(".path") else value for name, value in measured.items()
    }


def _hash(fields: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(fields, sort_keys=True, ensure_ascii=True).encode(), digest_size=16).hexdigest()


def _differing(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    absent = object()
    return sorted(name for name in old.keys() | new.keys() if old.get(name, absent) != new.get(name, absent))


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as dotted leaves; empty ones stay leaves, so that presence counts."""
    if isinstance(value, dict) and value:
        items = list(value.items())
    elif isinstance(value, list) and value:
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for key, item in items:
        leaves.update(_flatten(item, f"{prefix}.{key}" if prefix else str(key)))
    return leaves


def _is_under(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(root + ".") for root in roots)


def _is_path(name: str) -> bool:
    return any(PurePosixPath(name.replace(".", "/")).match(path.replace(".", "/")) for path in _PATHS)


def _last_part(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).name or path
