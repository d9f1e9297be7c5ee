"""Loads a run's configuration: preset or YAML file, then dotted overrides, then every check at once."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from configs.files import PRESET_DIR, find_configuration, preset_names, read_configuration
from configs.identity import bit_differences, config_identity_hash, identity_differences
from configs.overrides import apply_override
from configs.problems import check_plugin, describe, unknown_name
from configs.schema import Plugin, RunConfig
from configs.yaml_text import write_yaml
from quorum.errors import ConfigError
from quorum.registry import Registry

__all__ = [
    "bit_differences",
    "config_identity_hash",
    "dump_config",
    "identity_differences",
    "import_plugins",
    "load_config",
    "plugin_fields",
    "preset_names",
]

_SHIPPED_ROOT = PRESET_DIR.parent.parent
"""Where a preset's relative paths are looked for when they do not exist below the working directory."""


def load_config(
    source: str | Path,
    overrides: Sequence[str] = (),
    registries: Mapping[str, Registry] | None = None,
) -> RunConfig:
    """Read a configuration and check all of it.

    Args:
        source: a YAML file, or the name of a preset in `configs/presets` ("demo", "paper/qwen2.5-math-7b-dapo"). A file
            may say `extends: NAME`, another preset or a file beside it, and then holds only what differs.
        overrides: `section.field=value`, applied in order; the value is YAML, an empty one the empty string, and
            list items go by index (`data.train.0.path=prompts.jsonl`; the next free index appends).
        registries: plug-in registries by the dotted name of their field ("voting.rule"), see `plugin_fields`. The
            modules of `run.plugins` are imported before plug-ins are looked up. None leaves plug-ins unchecked.

    Returns:
        The frozen configuration.

    Raises:
        ConfigError: holds every problem found: unreadable or malformed file, duplicate keys, unknown keys (with the
            nearest right one), wrong types and ranges, contradictions, unknown plug-ins and wrong options.
    """
    tree, problems = _read_source(source)
    for override in overrides:
        problems.extend(apply_override(tree, override))
    if problems and not tree:
        raise ConfigError(problems)
    _fill_plugin_names(tree)
    config, found = _validate(tree)
    problems.extend(found)
    if config is not None and registries is not None:
        problems.extend(_check_plugins(config, registries))
    if problems or config is None:
        raise ConfigError(list(dict.fromkeys(problems)))
    return config


def dump_config(config: RunConfig) -> str:
    """The whole configuration as YAML that `load_config` reads back to an equal object."""
    return write_yaml(config.model_dump(mode="json"))


def plugin_fields(config: RunConfig) -> Iterator[tuple[str, Plugin]]:
    """Every plug-in of a configuration with the dotted name of its field ("rollout.engine", "voting.rule", ...).

    One of a list is named with its index ("report.sinks.0").
    """
    yield from _plugins_of(config, "")


def import_plugins(modules: Sequence[str]) -> None:
    """Import the user's plug-in modules; each adds its entries to the registries as it is imported.

    The working directory is importable too, as it would be for a script in it.

    Raises:
        ConfigError: modules that cannot be imported, all of them.
    """
    here = str(Path.cwd())
    if modules and here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    problems: list[str] = []
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            problems.append(f"run.plugins: module {module!r} cannot be imported: {error}")
    if problems:
        raise ConfigError(problems)


def _read_source(source: str | Path) -> tuple[dict[str, Any], list[str]]:
    path, is_preset = find_configuration(source)
    tree, problems = read_configuration(path)
    if is_preset and not problems:
        _anchor_shipped_paths(tree)
    return tree, problems


def _anchor_shipped_paths(tree: dict[str, Any]) -> None:
    """Point a preset's paths to the files shipped with it, where the working directory does not have them."""
    holders = [tree.get("model"), *_sources(tree, "data", "train"), *_sources(tree, "evaluation", "data")]
    for holder in holders:
        path = holder.get("path") if isinstance(holder, dict) else None
        if isinstance(path, str) and not Path(path).exists() and (_SHIPPED_ROOT / path).exists():
            holder["path"] = str(_SHIPPED_ROOT / path)


def _sources(tree: dict[str, Any], section: str, key: str) -> list[Any]:
    holder = tree.get(section)
    sources = holder.get(key) if isinstance(holder, dict) else None
    return list(sources) if isinstance(sources, list) else []


def _fill_plugin_names(tree: dict[str, Any]) -> None:
    """Options alone go to the default plug-in: `engine: {options: ...}` is an engine named as the schema says."""
    for section_name, section_field in RunConfig.model_fields.items():
        section, model = tree.get(section_name), section_field.annotation
        if not isinstance(section, dict) or not isinstance(model, type) or not issubclass(model, BaseModel):
            continue
        for name, field in model.model_fields.items():
            plugin = section.get(name)
            if isinstance(field.default, Plugin) and isinstance(plugin, dict):
                section[name] = {"name": field.default.name, **plugin}


def _validate(tree: dict[str, Any]) -> tuple[RunConfig | None, list[str]]:
    try:
        return RunConfig.model_validate(tree), []
    except ValidationError as error:
        problems = describe(error)
        if any(detail["loc"] for detail in error.errors()):
            problems += _contradictions(tree, error)
        return None, problems


def _contradictions(tree: dict[str, Any], error: ValidationError) -> list[str]:
    """Contradictions between fields of a tree that also has wrong fields, which pydantic would report only later.

    The wrong values are left out; a contradiction that speaks of one of their sections is not reported, for it may
    come from the default that took the wrong value's place.
    """
    known = RunConfig.model_fields
    sections = {name: dict(value) for name, value in tree.items() if name in known and isinstance(value, dict)}
    wrong: set[str] = set()
    for detail in error.errors():
        section, *rest = (str(part) for part in detail["loc"])
        if rest:
            sections.get(section, {}).pop(rest[0], None)
        if detail["type"] not in ("extra_forbidden", "missing"):
            wrong.add(".".join([section, *rest[:1]]))
    sections.setdefault("run", {}).setdefault("dir", "-")
    sections.setdefault("model", {}).setdefault("path", "-")
    sections.setdefault("data", {}).setdefault("train", [{"path": "-"}])
    try:
        RunConfig.model_validate(sections)
    except ValidationError as second:
        found = [line for detail in second.errors() if not detail["loc"] for line in describe(second)]
        return [line for line in found if not any(name in line for name in wrong)]
    return []


def _check_plugins(config: RunConfig, registries: Mapping[str, Registry]) -> list[str]:
    unknown = set(registries) - {_field_of(location) for location, _ in plugin_fields(config)} - set(_plugin_lists())
    if unknown:
        raise ValueError(f"registries for fields that hold no plug-in: {', '.join(sorted(unknown))}")
    problems: list[str] = []
    try:
        import_plugins(config.run.plugins)
    except ConfigError as error:
        problems.extend(error.problems)
    for location, plugin in plugin_fields(config):
        if (field := _field_of(location)) in registries:
            problems.extend(check_plugin(plugin, registries[field], location))
    extractors = registries.get("voting.extractor")
    for section, sources in (("data.train", config.data.train), ("evaluation.data", config.evaluation.data)):
        for index, source in enumerate(sources):
            if extractors is not None and source.extractor is not None and source.extractor not in extractors:
                problems.append(f"{section}.{index}.extractor: {unknown_name(source.extractor, extractors)}")
    return problems


def _plugins_of(section: BaseModel, prefix: str) -> Iterator[tuple[str, Plugin]]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Plugin):
            yield prefix + name, value
        elif isinstance(value, BaseModel):
            yield from _plugins_of(value, f"{prefix}{name}.")
        elif isinstance(value, tuple):
            yield from ((f"{prefix}{name}.{i}", item) for i, item in enumerate(value) if isinstance(item, Plugin))


def _field_of(location: str) -> str:
    """ "report.sinks.0" -> "report.sinks"; other names as they are."""
    field, _, index = location.rpartition(".")
    return field if index.isdigit() else location


def _plugin_lists() -> Iterator[str]:
    """Dotted names of the fields that hold any number of plug-ins, also none."""
    for section_name, section in RunConfig.model_fields.items():
        for name, field in getattr(section.annotation, "model_fields", {}).items():
            if field.annotation == tuple[Plugin, ...]:
                yield f"{section_name}.{name}"
