"""A voting section changed by a rule's name and a flat list of options, as `vote(...)` and `quorum vote` take them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from configs.problems import describe, nearest, unknown_name
from configs.schema import Plugin, VotingSection
from quorum.errors import ConfigError
from voting.equivalence import make_equivalence
from voting.extract import make_extractor
from voting.resolve import check
from voting.rules import VOTE_RULES

SECTIONS = ("elect", "batch", "train")
"""Their fields can be named alone: `min_agreement` is `elect.min_agreement`."""
DOTTED = (*SECTIONS, "gate")
"""Their fields can be named with a dot."""
PLUGINS = ("extractor", "equivalence", "labels")
"""Named by themselves, and their options with a dot: `equivalence=math_verify`, `equivalence.strict=false`."""


def variant(section: VotingSection, rule: str | None = None, options: Mapping[str, Any] | None = None) -> VotingSection:
    """Another section: this one with another rule and some options changed.

    An option's name is, in this order: an option of the rule; a field of `elect`, `batch` or `train`; `extractor`,
    `equivalence`, `labels` or `truncated`; and with a dot in front of it whatever the section has
    (`elect.denominator`, `train.seed`, `gate.max_agreement`, `equivalence.float_rounding`).

    Args:
        section: what is kept where nothing else is said.
        rule: name in VOTE_RULES, then with the rule's default options; None keeps the section's rule and its options.
        options: values by name.

    Raises:
        ConfigError: every unknown name (with the nearest right one), wrong value and contradiction.

    Example:
        >>> made = variant(VotingSection(), "soft", {"min_agreement": 0.5, "denominator": "all"})
        >>> made.rule.options, made.elect.min_agreement, made.elect.denominator
        ({'denominator': 'all'}, 0.5, 'all')
    """
    tree = section.model_dump()
    if rule is not None:
        tree["rule"] = {"name": rule, "options": {}}
    name = tree["rule"]["name"]
    if name not in VOTE_RULES:
        raise ConfigError(unknown_name(name, VOTE_RULES))
    own = tuple(VOTE_RULES[name].options.model_fields)
    problems = []
    given = dict(options or {})
    for key in sorted(given, key=lambda key: key not in PLUGINS):
        if not _put(tree, key, given[key], own):
            problems.append(_unknown(key, name, own))
    if problems:
        raise ConfigError(problems)
    return _checked(tree)


def fields_by_name() -> dict[str, str]:
    """Section of every field of `elect`, `batch` and `train`, by the field's name."""
    return {name: section for section in SECTIONS for name in _fields(section)}


def _fields(section: str) -> Iterator[str]:
    annotation: Any = VotingSection.model_fields[section].annotation
    yield from annotation.model_fields


def _put(tree: dict[str, Any], key: str, value: Any, own: tuple[str, ...]) -> bool:
    """Set one option; False when nothing is called so."""
    if key in own:
        tree["rule"]["options"] = tree["rule"]["options"] | {key: value}
        return True
    if key in PLUGINS:
        tree[key] = _plugin(value)
        return True
    if key == "truncated":
        tree[key] = value
        return True
    head, dot, rest = key.rpartition(".")
    if not dot:
        head, rest = fields_by_name().get(key, ""), key
    if head in DOTTED and rest in _fields(head):
        tree[head][rest] = value
        return True
    if head in (*PLUGINS, "rule"):
        tree[head]["options"] = tree[head]["options"] | {rest: value}
        return True
    return False


def _plugin(value: Any) -> dict[str, Any]:
    if isinstance(value, Plugin):
        return value.model_dump()
    return {"options": {}, **value} if isinstance(value, Mapping) else {"name": value, "options": {}}


def _unknown(key: str, rule: str, own: tuple[str, ...]) -> str:
    fields = fields_by_name()
    others = [*fields, *PLUGINS, "truncated"]
    dotted = [f"{section}.{name}" for section in DOTTED for name in _fields(section)]
    guess = nearest(key, dotted if "." in key else [*own, *others])
    hint = f"; did you mean {guess}?" if guess else ""
    options = f"options of rule {rule}: {', '.join(own)}" if own else f"rule {rule} has no options"
    return f"no option is called {key!r}{hint} ({options}; of every vote: {', '.join(others)})"


def _checked(tree: dict[str, Any]) -> VotingSection:
    try:
        section = VotingSection.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(describe(error, prefix=("voting",))) from error
    problems = check(section)
    for make, plugin in ((make_extractor, section.extractor), (make_equivalence, section.equivalence)):
        try:
            make(plugin)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return section
