"""Finds and reads configuration files: presets by name, YAML by path, each laid over what it extends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.problems import nearest
from configs.yaml_text import YamlError, read_yaml
from quorum.errors import ConfigError

PRESET_DIR = Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    """Names of the shipped presets, sorted; those in a subfolder by `FOLDER/NAME`."""
    return sorted(path.relative_to(PRESET_DIR).with_suffix("").as_posix() for path in PRESET_DIR.rglob("*.yaml"))


def find_configuration(source: str | Path) -> tuple[Path, bool]:
    """(file, whether it is a preset) of a configuration's name.

    Raises:
        ConfigError: no preset and no file is called so; names the nearest.
    """
    path = Path(source)
    names = preset_names()
    if isinstance(source, str) and source in names:
        return PRESET_DIR / f"{source}.yaml", True
    folders = {name.partition("/")[0] for name in names if "/" in name}
    is_name = len(path.parts) == 1 or (len(path.parts) == 2 and path.parts[0] in folders)
    if isinstance(source, Path) or path.suffix in (".yaml", ".yml") or not is_name:
        if not path.is_file():
            raise ConfigError(f"configuration {path}: no such file (presets: {_listed(names)})")
        return path, False
    raise ConfigError(_no_preset(str(source)))


def _no_preset(name: str) -> str:
    guess = nearest(name, preset_names())
    hint = f"; did you mean {guess}?" if guess else ""
    return f"no preset is called {name!r}{hint} (presets: {_listed(preset_names())}; a file's name ends in .yaml)"


def _listed(names: Sequence[str]) -> str:
    """Presets by name, those of a subfolder as one."""
    return ", ".join(dict.fromkeys(f"{name.partition('/')[0]}/..." if "/" in name else name for name in names))


def read_configuration(path: Path, chain: tuple[Path, ...] = ()) -> tuple[dict[str, Any], list[str]]:
    """A file's tree, laid over the tree of what it `extends`: another preset, or a file beside it.

    Args:
        path: of the file.
        chain: files that extend this one, so that a circle is found.

    Returns:
        (tree, problems of malformed YAML).

    Raises:
        ConfigError: a file cannot be read or holds no sections; `extends` names nothing, or goes in a circle.
    """
    if path.resolve() in chain:
        names = " -> ".join(one.name for one in (*chain, path))
        raise ConfigError(f"configuration {path}: `extends` goes in a circle: {names}")
    tree, problems = _read_tree(path)
    if "extends" not in tree or problems:
        return tree, problems
    parent = tree.pop("extends")
    if not isinstance(parent, str) or not parent:
        raise ConfigError(f"configuration {path}: extends: expected the name of a preset or a file, got {parent!r}")
    is_file = Path(parent).suffix in (".yaml", ".yml")
    found = path.parent / parent if is_file else PRESET_DIR / f"{parent}.yaml"
    if not found.is_file():
        if is_file:
            raise ConfigError(f"configuration {path}: extends {parent}: no such file beside it")
        raise ConfigError(f"configuration {path}: extends {parent}: {_no_preset(parent)}")
    base, problems = read_configuration(found, (*chain, path.resolve()))
    return _laid_over(base, tree), problems


def _laid_over(base: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    """Mappings are merged, all else replaced: lists whole, and a plug-in of another name with its options."""
    merged = dict(base)
    for key, value in tree.items():
        old = merged.get(key)
        is_other_plugin = isinstance(value, dict) and "name" in value and value["name"] != _plugin_name(old)
        if isinstance(old, str) and isinstance(value, dict) and value.keys() == {"options"}:
            merged[key] = {"name": old, **value}
        elif isinstance(old, dict) and isinstance(value, dict) and not is_other_plugin:
            merged[key] = _laid_over(old, value)
        else:
            merged[key] = value
    return merged


def _plugin_name(value: Any) -> Any:
    return value.get("name") if isinstance(value, dict) else value


def _read_tree(path: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        tree = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"configuration {path}: cannot be read: {reason}") from error
    except YamlError as error:
        return {}, [f"{path}: {problem}" for problem in error.problems]
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        kind = type(tree).__name__
        raise ConfigError(f"configuration {path}: expected sections (`model:`, `data:`, ...), got {kind}")
    return {str(name): {} if section is None else section for name, section in tree.items()}, []
