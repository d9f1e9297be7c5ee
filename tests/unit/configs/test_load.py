"""Loading: presets, overrides, every problem at once, round trip."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import Field

from configs.load import dump_config, import_plugins, load_config, plugin_fields, preset_names
from configs.schema import RunConfig
from quorum.errors import ConfigError
from quorum.registry import Entry, Options

MINIMAL = {"run": {"dir": "runs/x"}, "model": {"path": "m"}, "data": {"train": [{"path": "a.jsonl"}]}}


class ThresholdOptions(Options):
    min_agreement: float = Field(default=0.0, ge=0, le=1)


RULES = {"majority": Entry(target=None), "threshold": Entry(target=None, options=ThresholdOptions)}


def write(directory: Path, tree: object, name: str = "run.yaml") -> Path:
    path = directory / name
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
    return path


def problems_of(*arguments: object, **keywords: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(*arguments, **keywords)
    return list(caught.value.problems)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_parses_and_round_trips(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    assert load_config(write(tmp_path, dump_config(config))) == config


def test_the_paper_preset_holds_the_papers_hyperparameters() -> None:
    config = load_config("srt")
    assert (config.rollout.prompts_per_step, config.rollout.completions_per_prompt) == (16, 32)
    assert (config.data.max_prompt_tokens, config.rollout.max_completion_tokens) == (1024, 3072)
    assert (config.learner.learning_rate, config.learner.kl.coefficient) == (1e-6, 1e-3)
    assert config.learner.algorithm.name == "rloo"


def test_overrides_reach_every_depth_and_win_over_the_file(tmp_path: Path) -> None:
    config = load_config(
        write(tmp_path, {**MINIMAL, "learner": {"betas": [0.9, 0.95]}}),
        [
            "learner.learning_rate=3e-5",
            "learner.kl.coefficient=0.5",
            "rollout.stop=['###', END]",
            "data.train.0.path=b.jsonl",
            "data.train.0.columns.prompt=question",
            "data.train.1.path=c.parquet",
            "rollout.max_model_len=null",
            "data.prompt_suffix=",
            "voting.rule=majority",
            "rollout.engine.options.block_size=32",
            "learner.betas.1=0.99",
            "learner.learning_rate=4e-5",
        ],
    )
    assert config.learner.learning_rate == 4e-5
    assert config.learner.kl.coefficient == 0.5
    assert config.learner.betas == (0.9, 0.99)
    assert config.rollout.stop == ("###", "END")
    assert [source.path for source in config.data.train] == ["b.jsonl", "c.parquet"]
    assert config.data.train[0].columns.prompt == "question"
    assert config.data.prompt_suffix == "" and config.rollout.max_model_len is None
    assert config.voting.rule.name == "majority"
    assert (config.rollout.engine.name, config.rollout.engine.options) == ("vllm", {"block_size": 32})


def test_an_override_deepens_a_plugin_given_by_its_bare_name(tmp_path: Path) -> None:
    path = write(tmp_path, {**MINIMAL, "voting": {"rule": "threshold"}})
    rule = load_config(path, ["voting.rule.options.min_agreement=0.5"], {"voting.rule": RULES}).voting.rule
    assert (rule.name, rule.options) == ("threshold", {"min_agreement": 0.5})


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("learner.learnin_rate=1", "did you mean learner.learning_rate?"),
        ("rollout.learning_rate=1", "did you mean learner.learning_rate?"),
        ("lerner.num_ranks=1", "did you mean learner?"),
        ("learner.kl.coeff=1", "did you mean learner.kl.coefficient?"),
        ("data.train.0.colums.prompt=p", "did you mean data.train.0.columns?"),
        ("seed=3", "did you mean run.seed?"),
        ("voting.rule.option.x=3", "did you mean voting.rule.options?"),
    ],
)
def test_a_wrong_key_names_the_nearest_right_one(tmp_path: Path, override: str, expected: str) -> None:
    found = problems_of(write(tmp_path, MINIMAL), [override])
    assert len(found) == 1
    assert found[0].startswith(override.partition("=")[0].rpartition(".")[0]) or "." not in override
    assert expected in found[0]


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    tree = {
        "run": {"num_steps": 0, "dirr": "x"},
        "model": {"path": "m"},
        "data": {"train": [{"pth": "a"}]},
        "rollout": {"top_p": 3, "completions_per_prompt": 1},
        "voting": {"truncated": "maybe"},
    }
    found = problems_of(write(tmp_path, tree), ["nonsense", "learner.zero_stage=four"])
    assert len(found) == 10
    for part in (
        "'nonsense': expected section.field=value",
        "run.num_steps: input should be greater than or equal to 1, got 0",
        "run.dirr: unknown key; did you mean run.dir?",
        "run.dir: missing (Run directory",
        "data.train.0.path: missing",
        "data.train.0.pth: unknown key; did you mean data.train.0.path?",
        "rollout.top_p:",
        "voting.truncated: input should be 'abstain' or 'vote', got 'maybe'",
        "learner.zero_stage:",
        "a vote needs at least 2 completions per prompt",
    ):
        assert any(part in problem for problem in found), part


def test_a_contradiction_is_not_blamed_on_a_default_that_replaced_a_wrong_value(tmp_path: Path) -> None:
    tree = {**MINIMAL, "rollout": {"max_model_len": 64, "max_completion_tokens": "many"}, "data": MINIMAL["data"]}
    assert [problem.partition(":")[0] for problem in problems_of(write(tmp_path, tree))] == [
        "rollout.max_completion_tokens"
    ]


def test_lengths_beyond_the_context_are_refused_with_the_arithmetic(tmp_path: Path) -> None:
    overrides = ["data.max_prompt_tokens=1024", "rollout.max_completion_tokens=3072", "rollout.max_model_len=2048"]
    (problem,) = problems_of(write(tmp_path, MINIMAL), overrides)
    assert "prompt 1,024 + completion 3,072 tokens = 4,096 exceed rollout.max_model_len 2,048" in problem


def test_duplicate_keys_are_refused_with_their_lines(tmp_path: Path) -> None:
    text = "run:\n  dir: a\n  dir: b\nmodel: {path: m}\nrun:\n  dir: c\n"
    found = problems_of(write(tmp_path, text))
    assert len(found) == 2
    assert any("line 3: key 'dir' was already set on line 2" in problem for problem in found)
    assert any("line 5: key 'run' was already set on line 1" in problem for problem in found)


@pytest.mark.parametrize("text", ["run: [1, 2", "run: !!python/object:os.system {}", "- a\n- b", "run: {dir: \t}"])
def test_malformed_yaml_is_one_configuration_error(tmp_path: Path, text: str) -> None:
    assert len(problems_of(write(tmp_path, text))) >= 1


def test_a_binary_file_is_a_configuration_error(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80")
    assert "not UTF-8 text" in problems_of(path)[0]


def test_a_missing_file_and_an_unknown_preset_name_what_there_is(tmp_path: Path) -> None:
    assert "no such file" in problems_of(tmp_path / "none.yaml")[0]
    assert "did you mean srt?" in problems_of("srtt")[0]


def test_an_empty_file_lists_what_is_needed(tmp_path: Path) -> None:
    found = problems_of(write(tmp_path, ""))
    assert [problem.partition(":")[0] for problem in found] == ["run", "model", "data"]


def test_a_section_left_empty_takes_its_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, yaml.safe_dump(MINIMAL) + "learner:\n"))
    assert config.learner.algorithm.name == "rloo"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.train.path=x", "data.train is a list; name an item, as in data.train.0.path"),
        ("data.train.5.path=x", "data.train has 1 items; the next free index is 1"),
        ("run.dir.x=1", "run.dir is a value and has no field 'x'"),
        ("run..dir=1", "expected section.field=value"),
        ("run.dir={a", "quote the value"),
    ],
)
def test_an_override_that_fits_nowhere_says_why(tmp_path: Path, override: str, expected: str) -> None:
    found = problems_of(write(tmp_path, MINIMAL), [override])
    assert any(expected in problem for problem in found)


def test_plugins_are_checked_against_the_registries_handed_in(tmp_path: Path) -> None:
    path = write(tmp_path, {**MINIMAL, "voting": {"rule": {"name": "thresold"}}})
    assert load_config(path).voting.rule.name == "thresold"
    assert "did you mean 'threshold'?" in problems_of(path, (), {"voting.rule": RULES})[0]


def test_wrong_plugin_options_have_dotted_names(tmp_path: Path) -> None:
    rule = {"name": "threshold", "options": {"min_agreement": 2, "min_agrement": 0.1}}
    found = problems_of(write(tmp_path, {**MINIMAL, "voting": {"rule": rule}}), (), {"voting.rule": RULES})
    assert len(found) == 2
    assert found[0].startswith("voting.rule.options.min_agreement: input should be less than or equal to 1, got 2")
    assert "did you mean voting.rule.options.min_agreement?" in found[1]


def test_a_data_sources_extractor_is_checked_too(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    extractors = {"boxed": Entry(target=None)}
    (problem,) = problems_of(path, ["data.train.0.extractor=bxed"], {"voting.extractor": extractors})
    assert problem.startswith("data.train.0.extractor: no plug-in is called 'bxed'; did you mean 'boxed'?")


def test_users_plugin_modules_are_imported_before_the_lookup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rules_for_test.py").write_text("LOADED = True\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    import_plugins(["my_rules_for_test"])
    assert sys.modules["my_rules_for_test"].LOADED
    with pytest.raises(ConfigError, match="no_such_module_here") as caught:
        import_plugins(["no_such_module_here", "nor_this_one"])
    assert len(caught.value.problems) == 2


def test_every_plugin_of_the_schema_is_found() -> None:
    names = {name for name, _ in plugin_fields(RunConfig.model_validate(MINIMAL))}
    assert names == {
        "rollout.engine",
        "voting.extractor",
        "voting.equivalence",
        "voting.labels",
        "voting.rule",
        "learner.algorithm",
        "learner.loss",
    }


def test_strings_that_look_like_numbers_survive_the_round_trip(tmp_path: Path) -> None:
    values = [
        "1e-6",
        "1e5",
        "0x10",
        "null",
        "~",
        "true",
        "on",
        "12:30",
        "",
        " a",
        "a: b",
        "\\boxed{}",
        "2024-01-01",
        ".",
    ]
    tree = {**MINIMAL, "rollout": {"stop": values, "engine": {"name": "vllm", "options": {"a": "1e-6", "b": 1e-6}}}}
    config = RunConfig.model_validate(tree)
    assert load_config(write(tmp_path, dump_config(config))) == config
    assert isinstance(load_config(write(tmp_path, dump_config(config))).rollout.engine.options["b"], float)


def test_a_presets_paths_are_found_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in preset_names():
        config = load_config(name)
        for path in (config.model.path, *(source.path for source in config.data.train)):
            assert Path(path).is_absolute() is Path(path).exists()


def test_importing_configs_loads_no_heavy_library() -> None:
    code = (
        "import sys, configs.load; print([m for m in ('torch','ray','vllm','deepspeed','numpy') if m in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env=dict(os.environ)
    )
    assert output.stdout.strip() == "[]"


def test_the_paper_preset_takes_a_file_as_its_own_comment_says(tmp_path: Path) -> None:
    from data.rows import source_format

    assert source_format(load_config("srt").data.train[0]) == "hub"
    config = load_config("srt", [f"data.train.0.path={tmp_path / 'prompts.parquet'}"])
    assert source_format(config.data.train[0]) == "parquet"


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (["voting.batch.unlabeled=zero_reward", "voting.batch.no_signal=drop"], "zero_reward"),
        (["voting.batch.unlabeled=zero_reward", "voting.batch.max_rounds=2"], "zero_reward"),
        (["voting.batch.keep_fraction=0.5", "voting.batch.max_rounds=2"], "keep_fraction"),
        (["voting.service.group_seconds=200"], "deadlines.vote_seconds"),
        (["voting.train.num_completions=99"], "voting.train.num_completions"),
        (["voting.service.num_replicas=3", "voting.service.max_replicas=2"], "max_replicas"),
    ],
)
def test_settings_of_the_vote_that_contradict_each_other_are_refused(
    tmp_path: Path, settings: list[str], word: str
) -> None:
    [problem] = problems_of(write(tmp_path, MINIMAL), settings)
    assert word in problem


STOPPING = ["rollout.stop_decided=true", "voting.train.num_completions=8"]


def test_completions_may_stop_once_the_vote_is_decided_where_fewer_train_than_vote(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, MINIMAL), STOPPING).rollout.stop_decided
    kept = ["voting.batch.no_signal=drop", "voting.batch.max_rounds=2", "voting.elect.denominator=parsed"]
    assert load_config(write(tmp_path, MINIMAL), STOPPING + kept).rollout.stop_decided


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("voting.train.num_completions=null", ["trains on all 16", "rollout.completions_per_prompt"]),
        ("voting.train.num_completions=16", ["trains on all 16"]),
        ("voting.train.choose=stratified", ["choose=stratified", "first or random"]),
        ("voting.elect.min_agreement=0.5", ["min_agreement=0.5", "set it to 0"]),
        ("voting.elect.min_margin=0.1", ["min_margin=0.1", "set it to 0"]),
        ("voting.batch.keep_fraction=0.5", ["keep_fraction=0.5", "set it to 1"]),
        ("voting.labels=ground_truth", ["labels=ground_truth", "labels=vote"]),
    ],
)
def test_a_vote_that_cannot_be_decided_early_is_refused_by_name(tmp_path: Path, setting: str, words: list[str]) -> None:
    path = write(tmp_path, MINIMAL)
    [problem] = problems_of(path, [*STOPPING, setting])
    assert problem.startswith("rollout.stop_decided: voting.")
    assert all(word in problem for word in [*words, "stop_decided=false"])
    fine = [*STOPPING, setting, "rollout.stop_decided=false"]
    assert not load_config(path, fine).rollout.stop_decided
