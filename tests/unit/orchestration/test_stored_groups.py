"""Stored groups as the groups of a run without samplers."""

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from configs.load import dump_config, load_config
from configs.schema import RunConfig
from orchestration.group_log import GroupLogWriter
from orchestration.group_table import StepRecord, closed_files
from orchestration.plan import make_plan
from orchestration.preflight import preflight
from orchestration.stored_groups import GroupSource, StoredGroupReader, StoredGroups, find_groups
from quorum.errors import ConfigError, DataError, StageError
from quorum.types import EndState, GroupKey, Prompt, Role, prompt_id_of
from tests.builders import make_completion, make_group
from tests.integration.learner_processes import make_model

P = 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def run(tmp_path: Path, model: Path) -> Path:
    """Two closed steps of two groups each; ids go 5, 6, 7, 9 as in a part of a longer run."""
    log = GroupLogWriter(str(tmp_path), incarnation=0)
    for step, ids in enumerate([(5, 6), (7, 9)]):
        groups = [
            make_group(
                [make_completion(0, [10, number, 1]), make_completion(1, [11, 1])],
                group_id=number,
                prompt=Prompt(
                    prompt_id=prompt_id_of("unit", str(number)),
                    data_source="unit",
                    token_ids=np.asarray([number], dtype=np.int32),
                    text=str(number),
                ),
            )
            for number in ids
        ]
        log.close_step(step, 0, Role.TRAIN, [StepRecord(g.key, end_state=EndState.VOTE_ONLY) for g in groups], *groups)
    (tmp_path / "config.yaml").write_text(dump_config(config(model, tmp_path)))
    return tmp_path


def config(model: Path, groups: Path, *overrides: str) -> RunConfig:
    words = [f"model.path={model}", f"data.groups={groups}", "run.mode=train_only", "run.num_steps=2"]
    return load_config("demo", [*words, f"rollout.prompts_per_step={P}", *overrides])


def find(model: Path, run: Path, *overrides: str) -> GroupSource:
    return find_groups(config(model, run, *overrides), AutoTokenizer.from_pretrained(model))


def test_groups_are_numbered_by_their_place_and_bring_their_prompts(model: Path, run: Path) -> None:
    source = find(model, run)
    assert len(source.places) == 4
    assert [prompt.text for prompt in source.prompts.prompts] == ["5", "6", "7", "9"]
    assert source.prompts.order(0, shuffle=False).prompt_at(3).prompt_id == prompt_id_of("unit", "9")
    reader, key = StoredGroupReader(), GroupKey(0, Role.TRAIN, 3)
    receipt, group, tally = reader.fetch(key, *source.places[3])
    assert group.key == key and group.prompt_text == "9" and tally is None
    assert receipt.group_id == 3 and receipt.content_hash == group.content_hash() and receipt.num_tokens == 5
    assert group.completions[0].token_ids.tolist() == [10, 9, 1]


def test_a_source_that_grew_is_still_the_same_and_another_is_not(model: Path, run: Path) -> None:
    whole = find(model, run)
    last = closed_files(run)[1].path
    last.rename(last.with_suffix(".away"))
    part = find(model, run, "run.num_steps=1")
    assert len(part.places) == 2 and part.content_hash == whole.content_hash
    first = closed_files(run)[0].path
    last.with_suffix(".away").rename(first)
    assert find(model, run, "run.num_steps=1").content_hash != whole.content_hash


class Handle:
    """Stands where the reader's actor handle goes; records what is asked for."""

    def __init__(self) -> None:
        self.fetch = self
        self.asked: list[tuple[object, ...]] = []

    def options(self, **_: object) -> "Handle":
        return self

    def remote(self, *arguments: object) -> tuple[str, str, str]:
        self.asked.append(arguments)
        return "receipt", "group", "tally"


def test_a_group_is_read_when_it_is_asked_for_and_the_end_of_them_is_an_error(model: Path, run: Path) -> None:
    handle = Handle()
    groups = StoredGroups(find(model, run), branch=0, reader=handle)
    assert handle.asked == [] and len(groups) == 4 == len(list(groups))
    key = GroupKey(0, Role.TRAIN, 2)
    assert key in groups and groups[key].group == "group"
    assert [arguments[0] for arguments in handle.asked] == [key]
    assert GroupKey(0, Role.EVAL, 0) not in groups and GroupKey(1, Role.TRAIN, 0) not in groups
    with pytest.raises(StageError, match="used up"):
        groups[GroupKey(0, Role.TRAIN, 4)]


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        (["run.num_steps=3"], ConfigError, r"4 groups: 2 steps of rollout.prompts_per_step=2, fewer than .*=3"),
        (["rollout.temperature=0.5"], ConfigError, "drawn with rollout.temperature 1, and here it is 0.5"),
        (["data.groups=nowhere"], DataError, "data.groups=nowhere: no run is there"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(
    model: Path, run: Path, overrides: list[str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        find(model, run, *overrides)


def test_another_tokenizers_groups_are_refused(model: Path, run: Path) -> None:
    other = config(model, run)
    with pytest.raises(DataError, match="tokenizer reads the first stored prompt differently"):
        find_groups(other, AutoTokenizer.from_pretrained("data/demo/base"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["run.mode=train_only"], "name the run that holds them in data.groups"),
        (["data.groups=runs/a"], "is read by run.mode=train_only alone"),
    ],
)
def test_modes_that_contradict_other_settings_are_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config("demo", overrides)


@pytest.mark.parametrize(
    ("mode", "setting", "words"),
    [
        ("train_only", "voting.labels=teacher", "has no samplers to ask"),
        ("train_only", "voting.labels=cross_view", "has no samplers to ask"),
        ("rollout_only", "voting.labels=ema_teacher", "has no learner to keep"),
        ("rollout_only", "voting.rule={name: majority, options: {weight: self_certainty}}", "the learner makes"),
    ],
)
def test_votes_that_a_mode_cannot_have_are_refused(
    model: Path, run: Path, tmp_path: Path, mode: str, setting: str, words: str
) -> None:
    groups = [f"data.groups={run}"] if mode == "train_only" else []
    named = [f"model.path={model}", f"run.mode={mode}", setting, "run.num_steps=2"]
    made = load_config("demo", [*named, *groups, f"rollout.prompts_per_step={P}", f"run.dir={tmp_path / 'new'}"])
    with pytest.raises(ConfigError, match=words):
        preflight(made, new_run=True)


def test_a_plan_has_only_the_stages_of_its_mode() -> None:
    full = load_config("demo")
    assert (make_plan(full).num_samplers, make_plan(full).num_ranks) == (2, 2)
    assert make_plan(full, with_samplers=False).num_samplers == 0
    assert make_plan(full, with_learner=False).num_ranks == 0
    assert make_plan(full, with_samplers=False).total_cpus == 2 + 1
