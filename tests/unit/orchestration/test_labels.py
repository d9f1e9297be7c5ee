"""Labels from elsewhere: what each source brings to a group's tally, and what no source can see."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.load import load_config
from configs.schema import RunConfig
from data.prompts import source_identities, view_id
from orchestration.label_model import write_labels
from orchestration.labels import TallyDesk, check_pairs, make_dispenser, needs_pairs, needs_scores, teacher_of
from orchestration.registries import registries
from quorum.errors import ConfigError, DataError
from quorum.types import GroupKey, GroupScores, Prompt, Role, RolloutGroup, Tally
from tests.builders import make_group, make_prompt
from voting.resolve import resolve
from voting.sources import LABEL_SOURCES
from voting.tallier import Tallier
from voting.tally import Jury

NUM_PROMPTS = 24


class InProcess:
    """The voting service's part of a desk, without Ray: tickets that are tallies."""

    def __init__(self, config: RunConfig) -> None:
        self._tallier = Tallier(config.voting)

    def tally(
        self,
        group: RolloutGroup,
        extractor: str | None,
        *,
        provenance: str = "",
        revealed: Any = (),
        jury_refs: Any = (),
        scores: Any = None,
    ) -> Tally:
        jury = Jury(provenance, tuple(jury_refs), revealed) if provenance else None
        return asyncio.run(self._tallier.tally(group, extractor, jury, scores))

    def close(self) -> None:
        self._tallier.stop()

    def rewards(self, group: RolloutGroup, tally: Tally, resolution: Any) -> list[float]:
        return asyncio.run(self._tallier.reward(group, tally, resolution)).rewards.tolist()


def write_rows(path: Path, wrong: set[int] = frozenset()) -> Path:  # type: ignore[assignment]
    """Rows whose reference is their number; those of `wrong` have another."""
    rows = [{"prompt": f"say {i}", "answer": str(i) if i not in wrong else f"not {i}"} for i in range(NUM_PROMPTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def prompts_of(config: RunConfig) -> list[Prompt]:
    [identity] = source_identities(config.data.train)
    ids = [view_id(identity, str(i), is_paraphrase=False) for i in range(NUM_PROMPTS)]
    return [
        Prompt(prompt_id=ids[i], data_source="unit", token_ids=make_prompt(i).token_ids, text=f"say {i}")
        for i in range(NUM_PROMPTS)
    ]


def config_of(data: Path, labels: str, options: dict[str, Any] | None = None, **rule: str) -> RunConfig:
    source = json.dumps({"name": labels, "options": options or {}})
    words = [f"run.dir={data.parent / 'run'}", f"data.train=[{{path: {data}}}]", f"voting.labels={source}"]
    return load_config("demo", [*words, *(f"voting.{name}={value}" for name, value in rule.items())], registries())


def group_of(number: int, role: Role = Role.TRAIN) -> RolloutGroup:
    """Answers of one prompt: the policy says 7 more often than the truth, others as they come."""
    said = [7, number, 7, number + 1] if role is Role.TRAIN else [number, number, 7, number]
    return make_group([[1]] * 4, group_id=number, texts=[rf"\boxed{{{answer}}}" for answer in said], role=role)


def rewards_of(config: RunConfig) -> list[list[float]]:
    """Rewards of every prompt's group, through dispenser, desk, tally, resolve and reward."""
    with closing(InProcess(config)) as voting:
        return _rewards(config, voting, prompts_of(config))


def _rewards(config: RunConfig, voting: InProcess, prompts: list[Prompt]) -> list[list[float]]:
    desk = TallyDesk(config, voting, make_dispenser(config, prompts))  # type: ignore[arg-type]
    groups = [group_of(i) for i in range(NUM_PROMPTS)]
    for i, prompt in enumerate(prompts):
        desk.add(groups[i].key, prompt, groups[i])
        if teacher_of(config) is not None:
            desk.add(groups[i].key._replace(role=Role.TEACHER), prompt, group_of(i, Role.TEACHER))
    desk.close([group.key for group in groups])
    tallies: list[Any] = [desk.tickets[group.key] for group in groups]
    decided = resolve(tallies, config.voting)
    return [voting.rewards(*one) for one in zip(groups, tallies, decided, strict=True)]


def options_of(source: str, root: Path) -> dict[str, Any]:
    if source == "ground_truth":
        return {"share": 0.5, "seed": 3, "noise": 0.3}
    if source != "table":
        return {}
    path = root / "labels.parquet"
    [identity] = source_identities(config_of(root / "data.jsonl", "vote").data.train)
    ids = [view_id(identity, str(i), is_paraphrase=False) for i in range(0, NUM_PROMPTS, 2)]
    write_labels(path, [{"prompt_id": one, "label": "7", "agreement": 0.5} for one in ids], {"model": "unit"})
    return {"path": str(path)}


@pytest.mark.parametrize("source", sorted(LABEL_SOURCES))
def test_with_every_unrevealed_reference_corrupted_rewards_do_not_change(source: str, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data.jsonl")
    config = config_of(data, source, options_of(source, tmp_path))
    expected = rewards_of(config)
    dispenser = make_dispenser(config, prompts_of(config))
    uses_references = source == "ground_truth"
    revealed = {
        i
        for i, prompt in enumerate(prompts_of(config))
        if uses_references and dispenser and dispenser.reveal(prompt.prompt_id)
    }
    assert len(revealed) < NUM_PROMPTS
    write_rows(data, wrong=set(range(NUM_PROMPTS)) - revealed)
    assert rewards_of(config) == expected
    assert any(any(rewards) for rewards in expected)
    if uses_references:
        assert revealed
        write_rows(data, wrong=revealed)
        assert rewards_of(config) != expected, "what is revealed does decide"


@pytest.mark.parametrize("rule", ["random", "format_only", "inverted", "soft", "srt_compat"])
def test_no_rule_sees_a_reference(rule: str, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data.jsonl")
    config = config_of(data, "vote", rule=rule)
    expected = rewards_of(config)
    write_rows(data, wrong=set(range(NUM_PROMPTS)))
    assert rewards_of(config) == expected


def test_a_teachers_majority_is_the_label_and_the_policys_own_answers_are_not(tmp_path: Path) -> None:
    config = config_of(write_rows(tmp_path / "data.jsonl"), "teacher")
    assert rewards_of(config)[3] == [0.0, 1.0, 0.0, 0.0]
    assert rewards_of(config_of(tmp_path / "data.jsonl", "vote"))[3] == [1.0, 0.0, 1.0, 0.0]
    pooled = config_of(tmp_path / "data.jsonl", "pooled_teacher")
    assert rewards_of(pooled)[3] == [0.0, 1.0, 0.0, 0.0], "3 + 1 votes against 1 + 2"


def test_two_views_wait_for_each_other_and_are_each_others_jury(tmp_path: Path) -> None:
    config = config_of(write_rows(tmp_path / "data.jsonl"), "cross_view")
    assert needs_pairs(config)
    desk = TallyDesk(config, InProcess(config), None)  # type: ignore[arg-type]
    first, second = (make_group([[1]] * 2, group_id=i, texts=[rf"\boxed{{{i}}}"] * 2) for i in (4, 5))
    desk.add(first.key, make_prompt(4), first)
    assert desk.tickets == {}
    desk.add(second.key, make_prompt(5), second)
    made: dict[GroupKey, Any] = desk.tickets
    assert [made[key].jury for key in (first.key, second.key)] == [(1, 1), (1, 1)]
    assert [r.pseudo_label for r in resolve([made[first.key], made[second.key]], config.voting)] == ["5", "4"]


def test_evaluation_groups_have_no_jury_whatever_the_source(tmp_path: Path) -> None:
    config = config_of(write_rows(tmp_path / "data.jsonl"), "ground_truth")
    desk = TallyDesk(config, InProcess(config), make_dispenser(config, prompts_of(config)))  # type: ignore[arg-type]
    group = group_of(3, Role.EVAL)
    desk.add(group.key, prompts_of(config)[3], group)
    ticket: Any = desk.tickets[group.key]
    assert ticket.jury == ()


def test_a_group_that_was_tallied_before_is_not_tallied_again(tmp_path: Path) -> None:
    config = config_of(write_rows(tmp_path / "data.jsonl"), "vote")
    desk = TallyDesk(config, SimpleNamespace(), None)  # type: ignore[arg-type]
    group = group_of(3)
    desk.add(group.key, make_prompt(3), group, is_tallied=True)
    desk.close([group.key])
    assert desk.tickets == {}


def test_what_needs_a_part_that_is_not_built_is_refused_with_a_clear_word(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two versions of the weights"):
        config_of(write_rows(tmp_path / "data.jsonl"), "teacher", {"share_samplers": True})


@pytest.mark.parametrize("source", ["ema_teacher", "momentum"])
def test_a_teacher_that_follows_the_policy_starts_from_its_model(source: str, tmp_path: Path) -> None:
    config = config_of(write_rows(tmp_path / "data.jsonl"), source, {"num_completions": 4, "num_samplers": 2})
    teacher = teacher_of(config)
    assert teacher is not None and teacher.is_average
    assert (teacher.model, teacher.num_samplers, teacher.sampling.num_completions) == (config.model.path, 2, 4)


def test_scores_reach_the_vote_of_their_group_and_weigh_its_answers(tmp_path: Path) -> None:
    rule = json.dumps({"name": "majority", "options": {"weight": "self_certainty"}})
    config = config_of(write_rows(tmp_path / "data.jsonl"), "vote", rule=rule)
    assert needs_scores(config)
    group, scores = group_of(3), GroupScores(entropies=(0.5,) * 4, self_certainties=(1.0, 5.0, 1.0, 0.5))
    with closing(InProcess(config)) as voting:
        desk = TallyDesk(config, voting, None)  # type: ignore[arg-type]
        desk.add(group.key, make_prompt(3), group, scores=scores)
        tally: Any = desk.tickets[group.key]
        [decided] = resolve([tally], config.voting)
    assert tally.weights == tally.self_certainties == scores.self_certainties
    assert decided.pseudo_label == "3"  # 5 against 1 + 1 for the more frequent 7
    assert decided.agreement == pytest.approx(5 / 7.5)


def test_labels_for_nobody_are_a_data_error_before_anything_starts(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data.jsonl")
    path = tmp_path / "labels.parquet"
    write_labels(path, [{"prompt_id": "f" * 32, "label": "7", "agreement": 1.0}], {})
    config = config_of(data, "table", {"path": str(path)})
    with pytest.raises(DataError, match="no label for any training prompt"):
        make_dispenser(config, prompts_of(config))
    pq.write_table(pa.table({"prompt_id": ["a"], "answer": ["7"]}), path)
    with pytest.raises(DataError, match="lacks label, agreement"):
        make_dispenser(config, prompts_of(config))
    with pytest.raises(DataError, match="cannot be read"):
        make_dispenser(config_of(data, "table", {"path": str(tmp_path / "none.parquet")}), prompts_of(config))


def test_a_gold_share_on_a_schedule_goes_by_the_groups_number_and_is_recorded(tmp_path: Path) -> None:
    share = {"start": 1.0, "end": 0.0, "steps": 2}
    config = config_of(write_rows(tmp_path / "data.jsonl"), "ground_truth", {"share": share})
    prompts, per_step = prompts_of(config), config.rollout.prompts_per_step

    def provenances(order: list[int]) -> dict[int, str]:
        with closing(InProcess(config)) as voting:
            desk = TallyDesk(config, voting, make_dispenser(config, prompts))  # type: ignore[arg-type]
            for number in order:
                group = make_group([[1]] * 2, group_id=number, texts=[r"\boxed{7}"] * 2)
                desk.add(group.key, prompts[number % NUM_PROMPTS], group)
            tallies: dict[GroupKey, Any] = desk.tickets  # type: ignore[assignment]
            made = {key.group_id: resolve([tally], config.voting)[0] for key, tally in tallies.items()}
            return {number: one.provenance for number, one in made.items()}

    numbers = [*range(NUM_PROMPTS), *range(per_step, per_step + NUM_PROMPTS), *range(2 * per_step, 2 * per_step + 8)]
    found = provenances(numbers)
    assert {found[number] for number in range(NUM_PROMPTS)} == {"ground_truth"}
    assert {found[per_step + number] for number in range(NUM_PROMPTS)} == {"ground_truth", "majority"}
    assert {found[2 * per_step + number] for number in range(8)} == {"majority"}
    assert provenances(numbers[::-1]) == found, "whatever finishes first"


def test_views_of_a_prompt_must_not_be_parted(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data.jsonl")
    check_pairs(config_of(data, "cross_view"))
    parted = config_of(data, "cross_view", batch="{max_rounds: 3}")
    odd = parted.model_copy(update={"rollout": parted.rollout.model_copy(update={"prompts_per_step": 7})})
    with pytest.raises(ConfigError) as caught:
        check_pairs(odd)
    first, second = caught.value.problems
    assert "prompts_per_step=7 is odd" in first and "max_rounds" in second
    check_pairs(odd.model_copy(update={"voting": config_of(data, "vote").voting}))


def test_entropies_are_asked_of_the_learner_for_the_filter_and_for_negative_labels(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data.jsonl")
    assert needs_scores(config_of(data, "vote", train="{entropy_iqr: 0.75}"))
    assert needs_scores(config_of(data, "vote", rule="scrl"))
    assert not needs_scores(config_of(data, "vote", rule="{name: scrl, options: {tau_low: 0}}"))
