"""The way into the package reasoning-gym: its tasks by name, with or without the compiled package pycosat."""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any


def load_tasks() -> dict[str, tuple[type[Any], type[Any]]]:
    """Import reasoning-gym (about 2 s) and return its registry.

    reasoning-gym imports pycosat at once although one task alone uses it. Where pycosat is absent an empty module
    stands in for it, for the rest of the process.

    Returns:
        Task name -> (data set class, configuration class).

    Raises:
        ImportError: reasoning-gym is not installed, or something else that it needs is not.
    """
    if not has_pycosat():
        sys.modules.setdefault("pycosat", types.ModuleType("pycosat"))
    importlib.import_module("reasoning_gym")
    from reasoning_gym.factory import DATASETS

    return dict(DATASETS)


def has_pycosat() -> bool:
    """Whether the real pycosat is there; the stand-in is an empty module without `itersolve`."""
    try:
        return hasattr(importlib.import_module("pycosat"), "itersolve")
    except ImportError:
        return False
