"""Wrong input, as a user would give it: one line with the fix, the exit code of its class, nothing started."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest

from orchestration.cli.main import run

pytestmark = [pytest.mark.timeout(120)]

pytest.importorskip("transformers")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{i}+1=", "answer": str(i + 1)}) + "\n" for i in range(8)))
    return path


def quorum(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and stderr of one command in this process; --dry-run keeps anything from starting."""
    with pytest.raises(SystemExit) as ended:
        run(list(arguments))
    return int(ended.value.code or 0), capsys.readouterr().err


def train(tmp_path: Path, prompts: Path, *overrides: str) -> list[str]:
    words = [f"run.dir={tmp_path / 'run'}", f"data.train=[{{path: {prompts}}}]", "evaluation.data=[]"]
    return ["train", "demo", "--dry-run", *words, *overrides]


def check(found: tuple[int, str], code: int, *fragments: str) -> None:
    assert found[0] == code, found[1]
    for fragment in fragments:
        assert fragment in found[1], f"{fragment!r} is not in: {found[1]}"
    assert "Traceback" not in found[1]
    assert found[1].startswith("quorum: error:")


def test_good_input_prints_configuration_and_plan(
    tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(train(tmp_path, prompts))
    output = capsys.readouterr().out
    assert not ended.value.code
    assert "learner:" in output and "# resource plan" in output and "samplers" in output
    assert not (tmp_path / "run").exists()


def test_missing_data_names_the_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "nowhere.jsonl"
    check(quorum(capsys, *train(tmp_path, missing)), 3, str(missing))


def test_unreadable_data_names_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "1+1="}\n{"prompt": \n')
    check(quorum(capsys, *train(tmp_path, broken)), 3, "broken.jsonl", "2")


def test_empty_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    check(quorum(capsys, *train(tmp_path, empty)), 3, "empty.jsonl")


def test_a_missing_column_names_those_there(tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = train(tmp_path, prompts, "data.train.0.columns.prompt=question")
    check(quorum(capsys, *words), 3, "question", "prompt")


def test_prompts_longer_than_the_limit_are_refused_on_request(
    tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = train(tmp_path, prompts, "data.max_prompt_tokens=2", "data.on_long_prompt=error")
    check(quorum(capsys, *words), 3, "limit is 2")


def test_a_model_directory_without_weights_is_named(
    tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree("data/demo/base", bare, ignore=shutil.ignore_patterns("*.safetensors"))
    check(quorum(capsys, *train(tmp_path, prompts, f"model.path={bare}")), 3, str(bare), "weights")


def test_a_model_directory_without_tokenizer_is_named(
    tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree("data/demo/base", bare, ignore=shutil.ignore_patterns("tokenizer*"))
    check(quorum(capsys, *train(tmp_path, prompts, f"model.path={bare}")), 3, str(bare), "tokenizer")


def test_too_few_gpus_gives_the_arithmetic(tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    check(quorum(capsys, *train(tmp_path, prompts, "cluster.device=cuda")), 4, "no GPU", "cluster.device=cpu")


def test_a_port_in_use_is_named(tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        check(quorum(capsys, *train(tmp_path, prompts, f"sync.port={port}")), 4, str(port), "sync.port")


def test_one_completion_cannot_vote(tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(quorum(capsys, *train(tmp_path, prompts, "rollout.completions_per_prompt=1")), 2, "at least 2")


def test_lengths_beyond_the_model_give_the_arithmetic(
    tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = train(tmp_path, prompts, "data.max_prompt_tokens=1024", "rollout.max_completion_tokens=3072")
    check(quorum(capsys, *words), 2, "prompt 1,024 + completion 3,072 tokens exceed the model's")


def test_an_existing_run_directory_is_refused(
    tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    check(quorum(capsys, *train(tmp_path, prompts)), 2, "exists", "--resume")


def test_a_wrong_key_names_the_nearest_right_one(
    tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(quorum(capsys, *train(tmp_path, prompts, "learner.learning_rat=1e-4")), 2, "learner.learning_rate")


def test_every_problem_is_reported_at_once(tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    words = train(tmp_path, tmp_path / "nowhere.jsonl", "rollout.max_completion_tokens=4000")
    check(quorum(capsys, *words), 2, "exists", "4,000", "nowhere.jsonl")


def test_an_unknown_engine_argument_names_the_nearest(
    tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = train(tmp_path, prompts, "rollout.engine={name: vllm, options: {max_num_seq: 4}}")
    check(quorum(capsys, *words), 2, "max_num_seqs")


def test_resuming_a_run_that_is_not_there_is_a_data_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(quorum(capsys, "train", "--resume", str(tmp_path / "none")), 3, "no run at")


def test_nothing_to_train_says_what_to_name(capsys: pytest.CaptureFixture[str]) -> None:
    check(quorum(capsys, "train"), 2, "name a preset")


def test_an_unknown_preset_lists_those_there(capsys: pytest.CaptureFixture[str]) -> None:
    check(quorum(capsys, "train", "demmo"), 2, "demo")


@pytest.mark.stack
def test_what_the_cpu_engine_cannot_do_is_refused(
    tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["cluster.device=cpu", "rollout.engine={name: vllm, options: {enable_chunked_prefill: true}}"]
    check(quorum(capsys, *train(tmp_path, prompts, *words)), 2, "enable_chunked_prefill", "kills vLLM's CPU engine")


def test_sizes_that_do_not_divide_the_models_heads_are_named(
    tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ["learner.num_ranks=7", "learner.sequence_parallel_size=7"]
    found = quorum(capsys, *train(tmp_path, prompts, *size))
    check(found, 2, "learner.sequence_parallel_size 7 does not divide", "attention heads")


def test_a_model_that_states_no_limits_is_accepted(
    tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    free = tmp_path / "free"
    shutil.copytree("data/demo/base", free)
    settings = json.loads((free / "config.json").read_text())
    del settings["max_position_embeddings"], settings["num_attention_heads"]
    (free / "config.json").write_text(json.dumps(settings))
    with pytest.raises(SystemExit) as ended:
        run(train(tmp_path, prompts, f"model.path={free}"))
    assert not ended.value.code, capsys.readouterr().err


def begun_run(tmp_path: Path, prompts: Path) -> Path:
    """The directory of a run that has begun with `prompts`, as a driver that was killed leaves it."""
    from orchestration.preflight import preflight
    from orchestration.registries import load_run_config
    from orchestration.run_dir import RunDir

    words = [word for word in train(tmp_path, prompts)[3:]]
    config = load_run_config("demo", words)
    made = RunDir.create(config, preflight(config, new_run=True).train.content_hash())
    made.close()
    return made.path


def test_resuming_with_other_prompts_is_refused(
    tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = begun_run(tmp_path, prompts)
    before = (begun / "run.json").read_bytes()
    with prompts.open("a") as file:
        file.write(json.dumps({"prompt": "9+9="}) + "\n")
    check(quorum(capsys, "train", "--resume", str(begun)), 3, "not those that run", "data.train")
    assert (begun / "run.json").read_bytes() == before


def test_resuming_with_another_number_of_ranks_says_what_that_changes(tmp_path: Path, prompts: Path) -> None:
    from orchestration.preflight import preflight
    from orchestration.resume import config_of_run, resume_notes

    begun = begun_run(tmp_path, prompts)
    learner = begun / "checkpoints" / "step-000002" / "learner"
    learner.mkdir(parents=True)
    (learner / "manifest.json").write_text(json.dumps({"num_ranks": 2, "zero_stage": 2, "files": {}}))
    state = {"step": 2, "next_group_id": 128, "version": 2, "branch": 0, "num_empty_steps": 0, "num_updates": 2}
    (learner.parent / "state.json").write_text(json.dumps(state | {"identity_hash": ""}))
    (learner.parent.parent / "latest").write_text("step-000002\n")
    changed, path = config_of_run(None, ["learner.num_ranks=3"], begun)
    assert path is not None
    notes = resume_notes(path, changed, preflight(changed, new_run=False))
    assert notes[0] == "bit equality with the run so far ends here: learner.num_ranks changed"
    assert "saved by 2 ranks at ZeRO stage 2 and is converted to 3 ranks at stage" in notes[1]


def test_resuming_a_finished_run_says_how_to_go_on(
    tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = begun_run(tmp_path, prompts)
    checkpoint = begun / "checkpoints" / "step-000048"
    checkpoint.mkdir()
    state = {"step": 48, "next_group_id": 3072, "version": 48, "branch": 0, "num_empty_steps": 0, "num_updates": 48}
    (checkpoint / "state.json").write_text(json.dumps(state | {"identity_hash": ""}))
    (checkpoint.parent / "latest").write_text("step-000048\n")
    info = json.loads((begun / "run.json").read_text())
    (begun / "run.json").write_text(json.dumps(info | {"state": "done"}))
    check(quorum(capsys, "train", "--resume", str(begun)), 2, "has done 48 steps", "run.num_steps")
