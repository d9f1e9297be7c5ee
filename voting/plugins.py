"""Looks up a voting plug-in by name and validates its options."""

from __future__ import annotations

from typing import Any

from configs.problems import check_plugin
from configs.schema import Plugin
from quorum.errors import ConfigError
from quorum.registry import Options, Registry


def choose(registry: Registry, plugin: Plugin, location: str) -> tuple[Any, Options]:
    """The target of a configured plug-in and its validated options.

    Args:
        registry: name -> entry.
        plugin: name and raw options.
        location: dotted name of the configuration field, for the error.

    Raises:
        ConfigError: unknown name (with the nearest right one) or wrong options.
    """
    problems = check_plugin(plugin, registry, location)
    if problems:
        raise ConfigError(problems)
    entry = registry[plugin.name]
    return entry.target, entry.options.model_validate(plugin.options)
