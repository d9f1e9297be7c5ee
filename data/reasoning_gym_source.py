"""Generated tasks of the `reasoning-gym` package: rows by task name, parameters and seed."""

from __future__ import annotations

import difflib
from typing import Any

from configs.schema import DataSource
from quorum.errors import DataError
from quorum.reasoning_gym_tasks import has_pycosat, load_tasks

PREFIX = "reasoning_gym:"
NEEDS_PYCOSAT = ("zebra_puzzles",)
"""Tasks that cannot be generated without the compiled package pycosat."""


def task_name(source: DataSource) -> str:
    """Name of the task in `reasoning_gym:TASK`, or the whole path when the format says what it is."""
    return source.path.removeprefix(PREFIX)


def generate_rows(source: DataSource) -> list[dict[str, Any]]:
    """Generate `source.size` entries of a task; the same source gives the same entries.

    Args:
        source: `task_options` are the task's own parameters, `seed` seeds it.

    Returns:
        Entries in index order: `question`, `answer` and `metadata`. The metadata of some tasks gives the
        answer away and must stay in this package.

    Raises:
        DataError: reasoning-gym is not installed, the task is unknown or cannot run here, a parameter is
            wrong, or `size` is missing.
    """
    name = task_name(source)
    if source.size is None:
        raise DataError(f"{source.path}: a generated task needs `size`, the number of prompts to generate")
    reserved = sorted({"seed", "size"} & source.task_options.keys())
    if reserved:
        raise DataError(f"{source.path}: give {' and '.join(reserved)} beside task_options, not inside them")
    datasets = _load_tasks(source.path)
    if name not in datasets:
        near = difflib.get_close_matches(name, datasets, n=1, cutoff=0.4)
        hint = f"; did you mean {PREFIX}{near[0]}?" if near else ""
        raise DataError(f"{source.path}: reasoning-gym has no task {name!r} among its {len(datasets)}{hint}")
    if name in NEEDS_PYCOSAT and not has_pycosat():
        raise DataError(
            f"{source.path}: {name} needs the compiled package pycosat, which is not installed; "
            "install it (it needs a C compiler) or choose another task"
        )
    _check_options(source, datasets[name][1])
    return _generate(source, name)


def _check_options(source: DataSource, config_class: type) -> None:
    known = sorted(config_class.__dataclass_fields__.keys() - {"seed", "size"})
    for option in source.task_options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise DataError(f"{source.path}: unknown task option {option!r}; {hint}it has {', '.join(known)}")


def _generate(source: DataSource, name: str) -> list[dict[str, Any]]:
    from reasoning_gym import create_dataset

    try:
        dataset = create_dataset(name, seed=source.seed, size=source.size, **source.task_options)
        return [dataset[index] for index in range(source.size or 0)]
    except (AssertionError, TypeError, ValueError, KeyError, IndexError, AttributeError, ZeroDivisionError) as exc:
        raise DataError(f"{source.path}: reasoning-gym refuses these task options: {_one_line(exc)}") from exc


def _one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split()) or type(exc).__name__


def _load_tasks(path: str) -> dict[str, tuple[type[Any], type[Any]]]:
    """reasoning-gym's registry, name -> (data set class, configuration class)."""
    try:
        return load_tasks()
    except ImportError as exc:
        raise DataError(f"{path}: the package reasoning-gym cannot be imported ({_one_line(exc)})") from exc
