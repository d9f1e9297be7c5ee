"""Offline training on a tiny model: what each method raises, what ScPO's weights do, and what is written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs.load import dump_config
from orchestration.cli.main import load_command
from orchestration.distill import Distilled, DistillOptions, distill
from orchestration.distill_pairs import majority_examples, preference_pairs, read_voted
from quorum.errors import ResourceError
from tests.integration.learner_processes import make_config, make_model
from tests.unit.orchestration.test_distill_pairs import write_run

pytestmark = pytest.mark.stack
OPTIONS = DistillOptions(method="sft", learning_rate=1e-3, batch_size=4, micro_batch_size=2, epochs=3)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one closed step: groups with votes 3 to 1, 2 to 1 to 1, and one that agrees. It has no data file."""
    root = tmp_path_factory.mktemp("distill")
    model = make_model(root / "model")
    seven, three, two = r"\boxed{7}", r"\boxed{3}", r"\boxed{2}"
    write_run(root / "run", [[seven, three, seven, seven], [three, two, seven, three], [two] * 4] * 2)
    (root / "run" / "config.yaml").write_text(dump_config(make_config(model)))
    (root / "run" / "run.json").write_text("{}")
    return root / "run"


def logprob(model: Path, prompt: tuple[int, ...], completion: tuple[int, ...]) -> float:
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    ids = torch.tensor([[*prompt, *completion]])
    with torch.no_grad():
        logprobs = loaded(ids).logits[0, :-1].log_softmax(-1)
    picked = logprobs[torch.arange(ids.shape[1] - 1), ids[0, 1:]]
    return float(picked[len(prompt) - 1 :].sum())


@pytest.fixture(scope="module")
def made(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[DistillOptions], Distilled]:
    done: dict[DistillOptions, Distilled] = {}

    def make(options: DistillOptions) -> Distilled:
        if options not in done:
            done[options] = distill(run, tmp_path_factory.mktemp("out") / "model", options)
        return done[options]

    return make


def test_supervised_training_raises_the_log_probability_of_majority_completions(run: Path, made: Any) -> None:
    base, after = run.parent / "model", made(OPTIONS)
    examples, _ = majority_examples(read_voted(run))
    assert after.num_examples == len(examples) == 18 and after.last_loss < after.first_loss
    unique = set(examples)
    before = sum(logprob(base, one.prompt, one.completion) for one in unique)
    assert sum(logprob(after.path, one.prompt, one.completion) for one in unique) > before + 1
    assert after.num_tokens == 3 * sum(len(one.prompt) + len(one.completion) for one in examples)


@pytest.mark.parametrize("method", ["dpo", "scpo"])
def test_preference_training_raises_the_margin_of_chosen_over_rejected(run: Path, made: Any, method: Any) -> None:
    options = replace(OPTIONS, method=method, min_votes=1)
    base, after = run.parent / "model", made(options)
    pairs, selection = preference_pairs(read_voted(run), min_votes=1, seed=0)
    assert after.num_examples == len(pairs) == 4
    assert after.left_out == selection.left_out == {"all answers agree": 2}

    def margin(model: Path) -> float:
        return sum(
            logprob(model, pair.prompt, pair.chosen) - logprob(model, pair.prompt, pair.rejected) for pair in pairs
        )

    assert margin(after.path) > margin(base) + 0.1


def test_the_same_seed_gives_the_same_weights_and_the_facts_are_written(run: Path, made: Any, tmp_path: Path) -> None:
    options = replace(OPTIONS, method="scpo", min_votes=1)
    again = distill(run, tmp_path / "again", options)
    first = made(options)
    assert (first.path / "model.safetensors").read_bytes() == (again.path / "model.safetensors").read_bytes()
    facts = json.loads((again.path / "distill.json").read_text())
    assert facts["options"]["min_votes"] == 1 and facts["num_examples"] == 4
    assert facts["mean_weight"] == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert facts["num_updates"] == 3 and facts["provenances"] == {"majority": 4}


def test_training_ends_with_the_update_that_reaches_the_token_limit(run: Path, tmp_path: Path) -> None:
    made = distill(run, tmp_path / "out", replace(OPTIONS, max_tokens=25))
    assert (made.num_updates, made.num_tokens) == (2, 40), "4 completions of 5 tokens each per update"


def test_scpo_weighs_each_pair_by_its_lead_and_equals_dpo_where_all_weights_are_one() -> None:
    import torch
    from torch import tensor

    from learner.offline import scpo_loss

    policy = tensor([-2.0, -3.0]), tensor([-4.0, -1.0])
    reference = tensor([-2.5, -3.0]), tensor([-3.5, -2.0])
    lengths, weights = tensor([2.0, 4.0]), tensor([0.75, 0.25])
    # Margins: (-2 + 4) - (-2.5 + 3.5) = 1 and (-3 + 1) - (-3 + 2) = -1; NLL per token: 1 and 0.75.
    by_hand = (0.75 * (math.log1p(math.exp(-0.1)) + 1.0) + 0.25 * (math.log1p(math.exp(0.1)) + 0.75)) / 2
    loss = scpo_loss(policy, reference, lengths, weights, beta=0.1, nll_weight=1.0)
    assert float(loss) == pytest.approx(by_hand, rel=1e-6)
    dpo = -torch.nn.functional.logsigmoid(tensor([0.1, -0.1])).mean()
    assert float(scpo_loss(policy, reference, lengths, torch.ones(2), beta=0.1, nll_weight=0.0)) == pytest.approx(
        float(dpo)
    )


def test_tokens_go_in_as_sampled_and_the_loss_of_trl_is_that_of_weights_one(run: Path, tmp_path: Path) -> None:
    """One update of TRL's own DPO loss and of ours with all weights 1 on the same pairs gives the same loss."""
    from learner import offline

    rows = {"prompt_ids": [[3, 4, 5]] * 2, "chosen_ids": [[7, 1], [9, 1]], "rejected_ids": [[8, 1], [6, 2]]}
    settings = offline.OfflineSettings(
        method="dpo",
        model=make_config(run.parent / "model").model,
        learning_rate=1e-3,
        batch_size=2,
        micro_batch_size=2,
        epochs=2,
        max_tokens=None,
        beta=0.1,
        nll_weight=1.0,
        seed=0,
        precision="float32",
    )
    import torch

    theirs = offline.train_offline(settings, rows, tmp_path / "dpo", torch.float32)
    ours = offline.train_offline(
        replace(settings, method="scpo"), {**rows, "weight": [1.0, 1.0]}, tmp_path / "scpo", torch.float32
    )
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-5)
    nll = -sum(logprob(run.parent / "model", (3, 4, 5), ids) for ids in ((7, 1), (9, 1))) / 4
    assert theirs.losses[0] == pytest.approx(math.log(2) + nll, rel=1e-5), "margin 0 at first, NLL of exactly these ids"


def test_without_trl_the_error_names_the_extra(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "trl" else found(name, *rest))
    with pytest.raises(ResourceError, match=r"pip install quorum-srt\[distill\]"):
        distill(run, tmp_path / "out", OPTIONS)


def test_the_command_prints_what_it_did_and_a_result_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(run), "--method", "dpo", "--out", str(tmp_path / "out"), "--epochs", "1", "--batch-size", "4"]
    load_command("distill").main(words, standalone_mode=False)
    out = capsys.readouterr().out.splitlines()
    result = json.loads(out[-1].removeprefix("RESULT "))
    assert result["method"] == "dpo" and result["num_examples"] == 4 and result["num_updates"] == 1
    assert any("all answers agree" in line for line in out)
