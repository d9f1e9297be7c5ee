"""One contract for every engine: order kept, seeds honoured, version stamped, close idempotent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quorum.types import GroupKey, GroupRequest, Prompt, Role, RolloutGroup, SamplingSettings, VersionSpan
from rollout.engines.registry import ENGINES
from rollout.settings import SamplerSettings

Run = Callable[[Coroutine[Any, Any, Any]], Any]
MARKS = {"vllm": (pytest.mark.stack, pytest.mark.timeout(900))}
REQUEST = GroupRequest(
    key=GroupKey(0, Role.TRAIN, 5),
    prompt=Prompt(prompt_id="p", data_source="d", token_ids=np.arange(3, 23, dtype=np.int32), text="?"),
    sampling=SamplingSettings(num_completions=4, temperature=0.8, top_p=0.9, max_completion_tokens=24),
    seed=5 << 20,
    required_version=3,
)


@pytest.fixture(scope="module", params=[pytest.param(name, marks=MARKS.get(name, ())) for name in ENGINES])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Run]]:
    entry = ENGINES[request.param]
    model = save_model(tmp_path_factory.mktemp("model")) if request.param == "vllm" else Path("none")
    settings = SamplerSettings(
        sampler_id="s", model=str(model), max_model_len=128, engine=request.param, kv_cache_gib=0.25
    )
    loop = asyncio.new_event_loop()
    built = entry.target(settings, entry.options())
    loop.run_until_complete(built.start())
    yield built, loop.run_until_complete
    loop.run_until_complete(built.stop())
    loop.run_until_complete(built.stop())
    loop.close()


def save_model(path: Path) -> Path:
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    vocabulary = {"<pad>": 0, "<eos>": 1} | {chr(63 + i): i for i in range(2, 64)}
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>").save_pretrained(path)
    return path


def tokens(group: RolloutGroup) -> list[list[int]]:
    return [completion.token_ids.tolist() for completion in group.completions]


def test_completions_come_in_index_order_with_the_requests_identity(engine: tuple[Any, Run]) -> None:
    built, run = engine
    group, num_prefilled = run(built.generate(REQUEST, 3))
    assert [completion.index for completion in group.completions] == [0, 1, 2, 3]
    assert group.key == REQUEST.key
    assert (group.prompt_id, group.data_source, group.prompt_text, group.attempts) == ("p", "d", "?", 1)
    assert np.array_equal(group.prompt_token_ids, REQUEST.prompt.token_ids)
    assert 0 < num_prefilled <= 4 * len(REQUEST.prompt.token_ids)
    for completion in group.completions:
        assert completion.token_ids.dtype == np.int32 and completion.rollout_logprobs.dtype == np.float32
        assert 0 < len(completion.token_ids) == len(completion.rollout_logprobs) <= 24
        assert np.all(completion.rollout_logprobs <= 0)
        assert completion.finish_reason in ("stop", "length")


def test_completion_i_depends_on_seed_plus_i_alone(engine: tuple[Any, Run]) -> None:
    built, run = engine
    group, _ = run(built.generate(REQUEST, 3))
    again, _ = run(built.generate(REQUEST, 3))
    assert again.content_hash() == group.content_hash()
    for index in (1, 3):
        single = replace(REQUEST, seed=REQUEST.seed + index, sampling=replace(REQUEST.sampling, num_completions=1))
        assert tokens(run(built.generate(single, 3))[0]) == [tokens(group)[index]]
    other, _ = run(built.generate(replace(REQUEST, seed=6 << 20), 3))
    assert tokens(other) != tokens(group)


def test_groups_sampled_together_equal_groups_sampled_alone(engine: tuple[Any, Run]) -> None:
    built, run = engine
    requests = [replace(REQUEST, key=GroupKey(0, Role.TRAIN, i), seed=i << 20) for i in range(4)]

    async def together() -> list[tuple[RolloutGroup, int]]:
        return await asyncio.wait_for(asyncio.gather(*[built.generate(one, 3) for one in requests]), 120)

    batch = [group.content_hash() for group, _ in run(together())]
    assert batch == [run(built.generate(one, 3))[0].content_hash() for one in requests]
    assert len(set(batch)) == 4


def test_the_version_held_is_stamped_on_every_completion(engine: tuple[Any, Run]) -> None:
    built, run = engine
    group, _ = run(built.generate(REQUEST, 3))
    assert {completion.spans for completion in group.completions} == {(VersionSpan(3, 0),)}


def test_a_probe_counts_the_tokens_made(engine: tuple[Any, Run]) -> None:
    built, run = engine
    before = built.probe()
    group, _ = run(built.generate(REQUEST, 3))
    after = built.probe()
    assert after.tokens_generated - before.tokens_generated == sum(map(len, tokens(group)))
    assert before.num_running == after.num_running == 0


def test_scores_are_one_per_token_after_the_first_and_repeat(engine: tuple[Any, Run]) -> None:
    built, run = engine
    scores = run(built.score([3, 4, 5, 6, 7]))
    assert scores.shape == (4,) and scores.dtype == np.float32 and np.all(scores <= 0)
    assert np.array_equal(scores, run(built.score([3, 4, 5, 6, 7])))


def test_a_second_stop_does_nothing() -> None:
    async def run() -> None:
        for name, entry in ENGINES.items():
            never_started = entry.target(
                SamplerSettings(sampler_id="s", model="none", max_model_len=64, engine=name), entry.options()
            )
            await never_started.stop()
            await never_started.stop()

    asyncio.run(run())
