"""The demo's base model: its tokenizer, its noisy traces, and the prompts the preset trains and evaluates on."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
import yaml

from configs.schema import RunConfig
from data.prepare.demo import (
    HELD_OUT_SOURCE,
    MAX_TERM,
    NUM_TERMS,
    TRAIN_SOURCE,
    noisy_trace,
    render_prompt,
    sample_terms,
)
from data.reasoning_gym_source import generate_rows

REPOSITORY = Path(__file__).parents[3]
MAX_BASE_BYTES = 3_000_000


def test_a_trace_without_noise_is_the_running_totals():
    assert noisy_trace([4, 7, 9, 2, 10], random.Random(0), 0.0) == "11, 20, 22, \\boxed{32}"


def test_a_slip_is_carried_on_and_slips_are_symmetric():
    rng = random.Random(0)
    errors = Counter()
    for _ in range(4000):
        totals = [
            int(part.removeprefix("\\boxed{").removesuffix("}")) for part in noisy_trace([20] * 5, rng, 0.1).split(", ")
        ]
        assert len(totals) == 4
        slips = [total - before - 20 for before, total in zip([20, *totals], totals, strict=False)]
        errors.update(slips)
    assert set(errors) == {-10, -2, -1, 0, 1, 2, 10}
    assert 0.08 < 1 - errors[0] / errors.total() < 0.12
    assert abs(sum(error * count for error, count in errors.items())) < 400


def test_no_total_falls_below_zero():
    rng = random.Random(0)
    assert not any("-" in noisy_trace([0] * 5, rng, 0.9) for _ in range(300))


def test_traces_are_never_about_held_out_prompts():
    rng = random.Random(0)
    held_out = frozenset(render_prompt(sample_terms(random.Random(0), frozenset())) for _ in range(1))
    assert render_prompt(sample_terms(rng, held_out)) not in held_out


def test_the_preset_names_the_sources_that_the_model_was_made_for():
    config = RunConfig.model_validate(yaml.safe_load((REPOSITORY / "configs/presets/demo.yaml").read_text()))
    assert config.data.train == (TRAIN_SOURCE,)
    assert config.evaluation.data == (HELD_OUT_SOURCE,)
    assert config.learner.num_ranks == config.rollout.num_samplers == 2
    assert config.learner.zero_stage == 2


def test_training_and_held_out_prompts_are_disjoint_and_worded_as_in_training():
    pytest.importorskip("cellpylib", reason="reasoning-gym is part of the full stack")
    train = {row["question"] for row in generate_rows(TRAIN_SOURCE)}
    held_out = [row["question"] for row in generate_rows(HELD_OUT_SOURCE)]
    assert len(set(held_out)) == len(held_out) == 400
    assert train.isdisjoint(held_out)
    for question in held_out[:50]:
        terms = [int(term) for term in question.removeprefix("Calculate ").removesuffix(".").split(" + ")]
        assert question == render_prompt(terms)
        assert len(terms) == NUM_TERMS and max(terms) <= MAX_TERM


@pytest.mark.stack
def test_the_shipped_tokenizer_covers_every_character_and_gives_the_text_back():
    pytest.importorskip("transformers")
    from configs.schema import ModelSection
    from data.model_files import load_tokenizer

    tokenizer = load_tokenizer(ModelSection(path=str(REPOSITORY / "data/demo/base")))
    for text in ("Calculate 4 + 7 + 9 + 2 + 10.", "11, 20, 22, \\boxed{32}", "Any ASCII: ~!@#$%^&*()[]{}<>\n\"'"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer("Calculate 4 + 7 + 9 + 2 + 10.")["input_ids"]) == 12
    assert tokenizer.chat_template is None


def test_the_shipped_model_is_small_and_whole():
    from configs.schema import ModelSection
    from data.model_files import check_model_dir

    directory = REPOSITORY / "data/demo/base"
    facts = check_model_dir(ModelSection(path=str(directory)))
    assert 500_000 < facts.num_parameters < 1_200_000
    assert sum(file.stat().st_size for file in directory.rglob("*") if file.is_file()) <= MAX_BASE_BYTES
