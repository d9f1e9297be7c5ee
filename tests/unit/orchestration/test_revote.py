"""Rules as text, and votes by several of them compared with hand-computed figures and with a run's own audit."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.load import load_config
from configs.schema import VotingSection
from data.references import References
from orchestration.revote import OUT_SCHEMA, RuleVotes, compare, measure, needs_tokens, parse_rules, votes_table
from orchestration.stored_rollouts import Rollouts, find_rollouts
from orchestration.watch.auditor import Auditor
from orchestration.watch.grade import Grader
from orchestration.watch.jsonl import read_rows
from quorum.errors import ConfigError
from quorum.registry import Entry
from quorum.types import Role
from tests.builders import make_completion, make_group
from tests.unit.orchestration.watch.run_builder import close_step, make_run
from tests.worker_processes import servers
from voting.groups import as_groups
from voting.rules import VOTE_RULES, VoteRule, pay_members

BASE = VotingSection.model_validate({"extractor": "last_number", "elect": {"min_margin": 0.1}})


def rollouts(*groups: list[str], steps: list[int] | None = None) -> Rollouts:
    return Rollouts(as_groups(groups), steps or [0] * len(groups), [None] * len(groups))


def votes(found: Rollouts, *rules: str) -> list[RuleVotes]:
    return compare(found, parse_rules(rules, BASE))


def test_a_rule_is_a_name_and_what_differs() -> None:
    plain, full = parse_rules(
        ["majority", "soft, denominator=all ,min_agreement=0.5,equivalence=math_verify,equivalence.strict=false"], BASE
    )
    assert plain.text == "majority" and plain.section == BASE
    section = full.section
    assert (section.rule.name, section.rule.options) == ("soft", {"denominator": "all"})
    assert (section.elect.min_agreement, section.elect.min_margin) == (0.5, 0.1)
    assert (section.equivalence.name, section.equivalence.options) == ("math_verify", {"strict": False})
    assert section.extractor.name == "last_number"


def test_without_rules_the_run_s_own_votes() -> None:
    base = VotingSection.model_validate({"rule": {"name": "soft", "options": {"denominator": "all"}}})
    [choice] = parse_rules([], base)
    assert (choice.text, choice.section) == ("soft", base)


def test_values_are_yaml_and_commas_inside_brackets_and_quotes_belong_to_them() -> None:
    [made] = parse_rules(["majority,extractor={name: reasoning_gym, options: {fallback: text}},tie='first'"], BASE)
    assert made.section.extractor.options == {"fallback": "text"}
    assert (made.section.elect.tie, made.has_extractor) == ("first", True)
    [made] = parse_rules(["majority,train.num_completions=null"], BASE)
    assert made.section.train.num_completions is None


@pytest.mark.parametrize("name", ["srt_compat", "ttrl_compat"])
def test_a_preset_is_voted_by_as_it_stands_and_can_be_changed(name: str) -> None:
    [made] = parse_rules([f"{name},preset={name}"], BASE)
    kept = load_config(name).voting
    assert made.section == kept.model_copy(update={"service": BASE.service})
    assert made.has_extractor
    [changed] = parse_rules([f"majority,preset={name},tie=nobody"], BASE)
    assert (changed.section.rule.name, changed.section.elect.tie) == ("majority", "nobody")
    assert changed.section.extractor == kept.extractor


def test_the_settings_of_another_run_are_taken_from_its_file(tmp_path: Path) -> None:
    make_run(tmp_path / "run", voting={"rule": {"name": "soft", "options": {"denominator": "all"}}})
    path = tmp_path / "run/config.yaml"
    same, other = parse_rules([f"soft,preset={path}", f"majority,preset={path}"], BASE)
    assert (same.section.rule.options, other.section.rule.options) == ({"denominator": "all"}, {})
    assert same.section.extractor.name == "boxed"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("majorty", "--rule majorty: no plug-in is called 'majorty'; did you mean 'majority'?"),
        ("min_agreement=0.5", "it starts with the name of a rule"),
        ("", "it starts with the name of a rule"),
        ("majority,", "expected option=value, got ''"),
        ("majority,tie", "expected option=value, got 'tie'"),
        ("majority,tie=first,tie=nobody", "tie is set twice"),
        ("majority,mn_agreement=0.5", "did you mean min_agreement?"),
        ("majority,min_agreement=much", "voting.elect.min_agreement"),
        ("majority,min_agreement=[1", "not valid YAML"),
        ("majority,extractor=boxd", "did you mean 'boxed'?"),
        ("majority,labels=teacher", "hold no answers of a jury"),
        ("ttrl_compat,no_signal=drop", "use no_signal=keep"),
        ("srt_compat,preset=srt_compt", "did you mean srt_compat?"),
    ],
)
def test_a_wrong_rule_is_quoted_with_the_nearest_right_one(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_rules([text], BASE)
    assert message in str(caught.value) and str(caught.value).startswith(f"--rule {text}: ")


def test_all_wrong_rules_are_said_at_once_and_none_is_taken_twice() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_rules(["majorty", "majority,tiee=first", "soft", "soft"], BASE)
    assert len(caught.value.problems) == 3
    assert "--rule soft: given twice" in caught.value.problems


def test_figures_without_references_are_the_hand_counted_ones() -> None:
    found = rollouts(["7", "7", "7", "3"], ["1", "1", "8", "none"], ["9", "9", "4", "4"])
    majority, strict, soft = (
        measure(made, found) for made in votes(found, "majority", "majority,min_agreement=0.6", "soft,min_margin=0")
    )
    for made in (majority, strict, soft):
        assert made["num_groups"] == 3
        assert made["abstained"] == pytest.approx(1 / 12)
        assert made["distinct_answers"] == 2
        assert (made["label_accuracy"], made["reward_accuracy"]) == (None, None)
    assert majority["labelled"] == pytest.approx(2 / 3) and majority["kept"] == pytest.approx(2 / 3)
    assert majority["agreement"] == pytest.approx((0.75 + 0.5 + 0) / 3)
    assert strict["labelled"] == pytest.approx(1 / 3) and strict["agreement"] == majority["agreement"]
    assert soft["labelled"] == pytest.approx(2 / 3) and soft["kept"] == 1
    assert soft["agreement"] == pytest.approx((0.75 + 0.5 + 0.5) / 3)


def test_accuracies_are_the_hand_counted_ones_of_kept_groups_with_a_reference() -> None:
    found = rollouts(["7", "7", "7", "3"], ["1", "1", "8", "none"], ["9", "9", "4", "4"], ["5", "5", "5", "5"])
    references = References({"0": "7", "1": "$8$", "2": "9"})
    with Grader(BASE) as grader:
        majority, strict, soft = (
            measure(made, found, references, grader)
            for made in votes(found, "majority", "majority,min_agreement=0.6", "soft,min_margin=0")
        )
    assert majority["label_accuracy"] == 1 / 2
    assert majority["reward_accuracy"] == (4 + 1) / 8
    assert (strict["label_accuracy"], strict["reward_accuracy"]) == (1, 1)
    assert soft["label_accuracy"] == 1 / 2
    assert soft["reward_accuracy"] == pytest.approx((4 + 1 + 2) / 12)


def test_a_run_voted_on_again_as_it_was_has_the_figures_of_its_own_audit(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = make_run(run)
    close_step(run, config, 0, {0: ["7", "7", "7", "3"], 1: ["1", "1", "8", None], 2: [None] * 4}, Role.TRAIN)
    auditor = Auditor(run, config)
    auditor.poll()
    auditor.close()
    [row] = read_rows(run / "audit/labels.jsonl")
    stored = find_rollouts([run])
    found = stored.read(with_tokens=False)
    [made] = compare(found, parse_rules([], stored.section))
    with Grader(stored.section) as grader:
        figures = measure(made, found, stored.references(found.groups), grader)
    assert figures["label_accuracy"] == row["audit/label_accuracy"]
    assert figures["reward_accuracy"] == row["audit/reward_accuracy"]


def test_rules_that_read_alike_share_one_tally_and_the_others_do_not() -> None:
    found = rollouts(["7", "7", "3"])
    majority, soft, raw = votes(found, "majority", "soft", "majority,equivalence=raw")
    assert majority.votes[0].tally is soft.votes[0].tally
    assert raw.votes[0].tally is not majority.votes[0].tally
    assert raw.votes[0].tally == majority.votes[0].tally


def test_each_step_is_a_batch_of_its_own() -> None:
    groups = [["7"] * 4, ["7", "7", "7", "3"], ["5", "5", "4"], ["5", "5", "4", "3"]]
    rule = "majority,keep_fraction=0.5"
    [together] = votes(rollouts(*groups), rule)
    [apart] = votes(rollouts(*groups, steps=[0, 0, 1, 1]), rule)
    assert [vote.end_state is None for vote in together.votes] == [True, True, False, False]
    assert [vote.end_state is None for vote in apart.votes] == [True, False, True, False]


def test_a_prompt_s_own_extractor_reads_it_unless_the_rule_names_one() -> None:
    found = rollouts([r"\boxed{7} of 9"], ["7 of 9"])
    found.extractors[0] = "boxed"
    own, named = votes(found, "majority", "majority,extractor=last_number")
    assert [vote.answers for vote in own.votes] == [("7",), ("9",)]
    assert [vote.answers for vote in named.votes] == [("9",), ("9",)]


def test_rules_that_pay_by_a_comparison_of_their_own_pay_and_end_their_processes() -> None:
    before = servers()
    found = rollouts([r"\boxed{0.5}", r"\boxed{0.5}", r"\boxed{1/2}"])
    rules = ["srt_compat,extractor=boxed,equivalence=raw", "ttrl_compat,extractor=boxed", "majority,extractor=boxed"]
    official, ttrl, majority = votes(found, *rules)
    assert official.votes[0].rewards.tolist() == ttrl.votes[0].rewards.tolist() == [1, 1, 1]
    assert majority.votes[0].rewards.tolist() == [1, 1, 0]
    assert servers() == before


def test_tokens_are_read_only_where_a_weight_may_need_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VOTE_RULES, "mine", Entry(VoteRule(pay_members, lambda group, options: ())))
    for text, is_needed in [
        ("majority", False),
        ("format_only", False),
        ("srt_compat", False),
        ("majority,weight=mean_logprob", True),
        ("soft,weight=inverse_length", True),
        ("mine", True),
    ]:
        assert needs_tokens(parse_rules([text], BASE)) is is_needed, text
    with pytest.raises(ConfigError, match="these groups are texts alone"):
        votes(rollouts(["7"]), "majority", "majority,weight=mean_logprob")
    group = make_group([make_completion(0, [1], text="7"), make_completion(1, [1, 1, 1, 1], text="3")])
    [light] = votes(Rollouts([group], [0], [None]), "majority,weight=inverse_length")
    assert light.votes[0].pseudo_label == "7"


def test_votes_are_written_rule_by_rule_and_a_dropped_group_is_paid_nothing() -> None:
    found = rollouts(["7", "7", "3"], ["1", "2", "2"], steps=[4, 5])
    rows = votes_table(votes(found, "majority", "majority,min_agreement=0.7"), found)
    assert rows.schema == OUT_SCHEMA
    first, second, dropped, _ = rows.to_pylist()
    assert (first["rule"], first["step"], first["group_id"], first["prompt_id"]) == ("majority", 4, 0, "0")
    assert (first["pseudo_label"], first["rewards"], first["end_state"]) == ("7", [1, 1, 0], None)
    assert (second["step"], second["rewards"]) == (5, [0, 1, 1])
    assert (dropped["rule"], dropped["pseudo_label"]) == ("majority,min_agreement=0.7", None)
    assert (dropped["rewards"], dropped["end_state"]) == (None, "dropped:below_threshold")
    assert dropped["agreement"] == pytest.approx(2 / 3) and dropped["margin"] == pytest.approx(1 / 3)
