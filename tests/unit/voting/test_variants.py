"""A section changed by a rule and options: where each name goes, and what is said of a wrong one."""

from __future__ import annotations

import pytest

from configs.schema import Plugin, VotingSection
from quorum.errors import ConfigError
from voting.variants import SECTIONS, fields_by_name, variant

BASE = VotingSection.model_validate(
    {
        "rule": {"name": "soft", "options": {"denominator": "all"}},
        "equivalence": {"name": "exact", "options": {"ignore_case": True}},
        "elect": {"tie": "first"},
    }
)


def test_nothing_said_changes_nothing() -> None:
    assert variant(BASE) == BASE


def test_a_named_rule_starts_from_its_defaults_and_keeps_the_rest() -> None:
    made = variant(BASE, "soft")
    assert made.rule == Plugin(name="soft")
    assert made.elect.tie == "first" and made.equivalence == BASE.equivalence


def test_a_name_is_the_rule_s_option_first_and_with_a_dot_the_section_s() -> None:
    made = variant(VotingSection(), "soft", {"denominator": "all", "elect.denominator": "parsed"})
    assert made.rule.options == {"denominator": "all"}
    assert made.elect.denominator == "parsed"
    assert variant(VotingSection(), "majority", {"denominator": "parsed"}).elect.denominator == "parsed"
    drawn = variant(VotingSection(), "random", {"seed": 3, "train.seed": 4, "train.num_completions": 2})
    assert (drawn.rule.options, drawn.train.seed, drawn.train.num_completions) == ({"seed": 3}, 4, 2)


def test_plug_ins_are_changed_by_name_and_by_option_in_whatever_order() -> None:
    made = variant(BASE, options={"equivalence.strict": False, "equivalence": "math_verify", "truncated": "vote"})
    assert made.equivalence == Plugin(name="math_verify", options={"strict": False})
    assert (made.truncated, made.rule) == ("vote", BASE.rule)
    assert variant(BASE, options={"equivalence.ignore_case": False}).equivalence.options == {"ignore_case": False}
    assert variant(BASE, options={"extractor": Plugin(name="last_number")}).extractor.name == "last_number"
    assert variant(BASE, options={"rule.denominator": "parsed"}).rule.options == {"denominator": "parsed"}


def test_a_field_can_be_named_alone_because_no_two_sections_share_one() -> None:
    names = [
        name
        for section in SECTIONS
        for name in VotingSection.model_fields[section].annotation.model_fields  # type: ignore[union-attr]
    ]
    assert len(names) == len(set(names)) == len(fields_by_name())


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("sofft", {}, "no plug-in is called 'sofft'; did you mean 'soft'?"),
        ("majority", {"weightt": "one"}, "no option is called 'weightt'; did you mean weight?"),
        ("majority", {"keep_fracton": 1}, "did you mean keep_fraction?"),
        ("majority", {"elect.tiee": "first"}, "did you mean elect.tie?"),
        ("majority", {"gate.max_agrement": 0.9}, "did you mean gate.max_agreement?"),
        ("format_only", {"weight": "one"}, "rule format_only has no options"),
        ("majority", {"weight": "two"}, "voting.rule.options.weight"),
        ("majority", {"tie": "second"}, "voting.elect.tie"),
        ("majority", {"equivalence.strct": 1, "equivalence": "math_verify"}, "did you mean .*options.strict?"),
        ("majority", {"extractor": 7}, "voting.extractor.name"),
        ("majority", {"service.num_workers": 7}, "no option is called 'service.num_workers'"),
        ("ttrl_compat", {"no_signal": "drop"}, "use no_signal=keep"),
    ],
)
def test_a_wrong_name_or_value_is_named(rule: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        variant(VotingSection(), rule, options)


def test_all_wrong_names_are_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        variant(VotingSection(), "majority", {"tiee": "first", "weightss": "one"})
    assert len(caught.value.problems) == 2


def test_a_gate_is_named_with_a_dot_and_leaves_the_election_s_threshold_alone() -> None:
    made = variant(VotingSection(), "majority", {"min_agreement": 0.25, "gate.min_agreement": 0.5})
    assert (made.elect.min_agreement, made.gate.min_agreement.at(0), made.gate.max_agreement.at(0)) == (0.25, 0.5, 1.0)
