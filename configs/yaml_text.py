"""Reads and writes configuration YAML: safe types only, no key twice, `1e-6` is a number."""

from __future__ import annotations

import re
from typing import Any

import yaml

_FLOAT = re.compile(
    r"""^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
    |[0-9][0-9_]*[eE][-+]?[0-9]+
    |\.(?:inf|Inf|INF))$
    |^\.(?:nan|NaN|NAN)$""",
    re.VERBOSE,
)
"""YAML 1.2 floats: 1.1 would read `1e-6` as a string."""


class _Loader(yaml.SafeLoader):
    """Safe loader that notes keys written twice in `duplicates`."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.duplicates: list[str] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in seen:
                self.duplicates.append(f"line {line}: key {key!r} was already set on line {seen[key]}; remove one")
            seen.setdefault(key, line)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Safe dumper that quotes whatever `_Loader` would not read back as a string."""


_FIRST_CHARACTERS = list("-+0123456789.")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, _FIRST_CHARACTERS)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, _FIRST_CHARACTERS)


class YamlError(ValueError):
    """The text is not one YAML document of plain values with unique keys. Holds every problem found."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems)
        self.problems = problems


def read_yaml(text: str) -> Any:
    """Parse one YAML document.

    Raises:
        YamlError: a syntax error (with its line), an unsafe tag, or duplicate keys (all of them).
    """
    loader = _Loader(text)
    try:
        value = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise YamlError([f"{where}not valid YAML: {error.problem or error.context}"]) from error
    except (yaml.YAMLError, ValueError) as error:
        raise YamlError([f"not valid YAML: {error}"]) from error
    finally:
        loader.dispose()
    if loader.duplicates:
        raise YamlError(loader.duplicates)
    return value


def write_yaml(value: Any) -> str:
    """YAML text that `read_yaml` reads back to an equal value; keys keep their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
