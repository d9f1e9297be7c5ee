"""Registry of answer extractors: how the final answer is read from a completion's text. Those marked linear take
linear time and never raise.

No answer is an abstention (None); an empty answer is none, but for `boxed_raw`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PrivateAttr

from configs.problems import check_plugin, unknown_name
from configs.schema import Plugin
from quorum.registry import Entry, Options, Registry
from voting.extractors.boxed import extract_boxed, extract_boxed_raw
from voting.extractors.choice import ChoiceOptions, extract_choice
from voting.extractors.final_answer import extract_final_answer
from voting.extractors.json_field import JsonFieldOptions, extract_json_field
from voting.extractors.last_number import extract_last_number
from voting.extractors.pattern import RegexOptions, extract_regex
from voting.extractors.tags import ReasoningGymOptions, TagOptions, extract_answer_tags, extract_reasoning_gym
from voting.plugins import choose

Extractor = Callable[[str], str | None]
"""Text of one completion -> its answer, stripped, or None to abstain."""

ExtractorFunction = Callable[[str, Any], str | None]
"""(text, validated options) -> answer, as it is registered."""


@dataclass(frozen=True, slots=True)
class ExtractorEntry(Entry[ExtractorFunction]):
    """One registered extractor. A plain Entry is one that is not linear."""

    is_linear: bool | Callable[[Any], bool] = False
    """Linear in the text and never raises: runs in the voting process itself; all others, users' own included, run in
    killable worker processes under a deadline. A function decides by the validated options."""


@dataclass(frozen=True, slots=True)
class BoundExtractor:
    """An extractor with its options; called with a completion's text."""

    name: str
    options: Options
    """Validated; as JSON (`model_dump(mode="json")`) it makes the same extractor again."""
    is_linear: bool
    function: ExtractorFunction = field(repr=False)

    def __call__(self, text: str) -> str | None:
        """The answer, or None to abstain."""
        return self.function(text, self.options)


def extract_text(text: str, options: Options | None = None) -> str | None:
    r"""The whole text without surrounding whitespace.

    Args:
        text: one completion.
        options: none are read.

    Returns:
        None when there is nothing but whitespace.

    Example:
        >>> extract_text(" Paris\n")
        'Paris'
    """
    return text.strip() or None


def _check_member(plugin: Plugin) -> Plugin:
    if plugin.name not in EXTRACTORS:
        raise ValueError(unknown_name(plugin.name, EXTRACTORS))
    problems = check_plugin(plugin, EXTRACTORS, plugin.name)
    if problems:
        raise ValueError("\n".join(problems))
    return plugin


class ChainOptions(Options):
    """Options of the chain."""

    of: tuple[Annotated[Plugin, AfterValidator(_check_member)], ...] = Field(
        default=(Plugin(name="boxed"), Plugin(name="final_answer"), Plugin(name="last_number")), min_length=1
    )
    """Extractors in the order in which they are asked, by name or as {name, options}."""
    _members: tuple[BoundExtractor, ...] = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Bind the members once."""
        self._members = tuple(make_extractor(plugin) for plugin in self.of)

    @property
    def members(self) -> tuple[BoundExtractor, ...]:
        """The extractors of the chain, ready to be called."""
        return self._members


def extract_chain(text: str, options: ChainOptions | None = None) -> str | None:
    r"""The answer of the first extractor that finds one; an empty answer is not one.

    The default reads the box, then "answer is", then the last number, as TTRL does (arXiv 2504.16084): hardly any
    completion abstains.

    Args:
        text: one completion.
        options: the extractors; None takes the default ones.

    Example:
        >>> extract_chain(r"The answer is 3. \boxed{7}"), extract_chain("It is 3."), extract_chain("?")
        ('7', '3', None)
    """
    for member in (options or ChainOptions()).members:
        answer = member(text)
        if answer:
            return answer
    return None


def _is_linear_chain(options: ChainOptions) -> bool:
    return all(member.is_linear for member in options.members)


EXTRACTORS: Registry = {
    "boxed": ExtractorEntry(extract_boxed, is_linear=True),
    "boxed_raw": ExtractorEntry(extract_boxed_raw, is_linear=True),
    "answer_tags": ExtractorEntry(extract_answer_tags, TagOptions, is_linear=True),
    "final_answer": ExtractorEntry(extract_final_answer, is_linear=True),
    "last_number": ExtractorEntry(extract_last_number, is_linear=True),
    "choice": ExtractorEntry(extract_choice, ChoiceOptions, is_linear=True),
    "reasoning_gym": ExtractorEntry(extract_reasoning_gym, ReasoningGymOptions, is_linear=True),
    "text": ExtractorEntry(extract_text, is_linear=True),
    "regex": ExtractorEntry(extract_regex, RegexOptions),
    "json_field": ExtractorEntry(extract_json_field, JsonFieldOptions),
    "chain": ExtractorEntry(extract_chain, ChainOptions, is_linear=_is_linear_chain),
}
"""Answer extractors by name; each is called as `target(text, options)` and returns a string or None."""


def make_extractor(plugin: Plugin) -> BoundExtractor:
    """The extractor that a configuration names, options bound.

    Raises:
        ConfigError: unknown name or wrong options.

    Example:
        >>> make_extractor(Plugin(name="boxed"))(r"It is \\boxed{7}.")
        '7'
    """
    target, options = choose(EXTRACTORS, plugin, "voting.extractor")
    entry = EXTRACTORS[plugin.name]
    is_linear = entry.is_linear if isinstance(entry, ExtractorEntry) else False
    return BoundExtractor(plugin.name, options, is_linear(options) if callable(is_linear) else is_linear, target)


def extract_with(name: str, options: dict[str, Any], text: str) -> str | None:
    """Read one completion by an extractor given as JSON; what worker processes call. Bound extractors are kept.

    Args:
        name: key in EXTRACTORS.
        options: raw options, as in a configuration.
        text: one completion.

    Raises:
        ConfigError: unknown name or wrong options.

    Example:
        >>> extract_with("regex", {"pattern": "is (.)"}, "It is 7.")
        '7'
    """
    return _bound(name, json.dumps(options, sort_keys=True))(text)


@lru_cache(maxsize=64)
def _bound(name: str, options: str) -> BoundExtractor:
    return make_extractor(Plugin(name=name, options=json.loads(options)))
