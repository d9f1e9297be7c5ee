"""Orchestration: the driver of a run. `from orchestration import train, evaluate` works in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestration.evaluate_model import evaluate
    from orchestration.training import train

__all__ = ["evaluate", "train"]

_HOMES = {"train": "orchestration.training", "evaluate": "orchestration.evaluate_model"}


def __getattr__(name: str) -> Any:
    """Load the entry points on first use, so that importing a submodule stays light."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'orchestration' has no attribute {name!r}")
