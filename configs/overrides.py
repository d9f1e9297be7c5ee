"""Overrides, `section.field=value`: laid over a configuration's tree, or checked where that is not at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import ValidationError

from configs.problems import describe, section_at
from configs.schema import Plugin, RunConfig
from configs.yaml_text import YamlError, read_yaml
from quorum.errors import ConfigError


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuse overrides that no configuration takes: unknown fields, wrong types, values out of range.

    For where the configuration that they change is not seen: what depends on it (items of lists, contradictions,
    what a resume cannot change) is left to whoever reads it.

    Raises:
        ConfigError: names every wrong override.
    """
    problems: list[str] = []
    for override in overrides:
        keys = tuple(override.partition("=")[0].strip().split("."))
        if any(key.isdigit() for key in keys):
            continue
        tree: dict[str, Any] = {"model": {"path": "-"}, "data": {"train": [{"path": "-"}]}}
        if found := apply_override(tree, override):
            problems += found
            continue
        try:
            RunConfig.model_validate(tree)
        except ValidationError as error:
            problems += describe(error, only=partial(_is_of, keys))
    if problems:
        raise ConfigError(problems)


def _is_of(keys: tuple[str, ...], detail: Mapping[str, Any]) -> bool:
    """Whether an error is of the field that `keys` name, or of a section on the way to it that does not exist."""
    location: tuple[Any, ...] = detail["loc"]
    is_below = location[: len(keys)] == keys
    is_on_the_way = keys[: len(location)] == location
    return is_below or (is_on_the_way and detail["type"] == "extra_forbidden")


def apply_override(tree: dict[str, Any], override: str) -> list[str]:
    """Lay one over a tree, in place. Returns what is wrong with it."""
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        return [f"override {override!r}: expected section.field=value"]
    try:
        value = read_yaml(text) if text else ""
    except YamlError as error:
        return [f"override {override!r}: {problem}; quote the value" for problem in error.problems]
    node: Any = tree
    for depth in range(len(keys) - 1):
        node, problem = _descend(node, keys, depth)
        if problem:
            return [f"override {override!r}: {problem}"]
    problem = _assign(node, keys, value)
    return [f"override {override!r}: {problem}"] if problem else []


def _descend(node: Any, keys: Sequence[str], depth: int) -> tuple[Any, str]:
    """(child of `node` at keys[depth], problem): makes what is missing, turns a bare plug-in name into a mapping."""
    key = keys[depth]
    fresh: Any = [] if keys[depth + 1].isdigit() else {}
    if isinstance(node, list):
        index, problem = _index(node, keys, depth)
        if problem:
            return None, problem
        if index == len(node):
            node.append(fresh)
        elif isinstance(node[index], str) and section_at(keys[: depth + 1]) is Plugin:
            node[index] = {"name": node[index]}
        return node[index], ""
    if not isinstance(node, dict):
        return None, f"{'.'.join(keys[:depth])} is a value and has no field {key!r}"
    child = node.get(key)
    if isinstance(child, str) and section_at(keys[: depth + 1]) is Plugin:
        child = {"name": child}
    node[key] = fresh if child is None else child
    return node[key], ""


def _assign(node: Any, keys: Sequence[str], value: Any) -> str:
    if isinstance(node, dict):
        node[keys[-1]] = value
        return ""
    if isinstance(node, list):
        index, problem = _index(node, keys, len(keys) - 1)
        if not problem:
            node[index : index + 1] = [value]
        return problem
    return f"{'.'.join(keys[:-1])} is a value and has no field {keys[-1]!r}"


def _index(node: list[Any], keys: Sequence[str], depth: int) -> tuple[int, str]:
    name, key = ".".join(keys[:depth]), keys[depth]
    if not key.isdigit():
        return 0, f"{name} is a list; name an item, as in {name}.0.{key}"
    if int(key) > len(node):
        return 0, f"{name} has {len(node)} items; the next free index is {len(node)}"
    return int(key), ""
