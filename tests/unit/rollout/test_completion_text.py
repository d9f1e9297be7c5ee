"""Text decoded at the end is the text that vLLM would have decoded token by token."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.engines.completion_text import completion_text

pytestmark = pytest.mark.stack  # transformers

CORPUS = ["the cat sat on the mat, 12 + 7 = 19", " naïve café: €5 → 东京 🙂", "Let's think.\n\nSo \\boxed{42}."]


def byte_level() -> Any:
    """As GPT-2, Llama 3 and Qwen have it: spaces are bytes of the words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def metaspace() -> Any:
    """As Llama 2 and Mistral have it: a word's first token brings its space, which a text's first token loses."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"])
    tokenizer.train_from_iterator([CORPUS[0], CORPUS[2]], trainer)
    described = json.loads(tokenizer.to_str())
    vocabulary = described["model"]["vocab"]
    vocabulary.update({f"<0x{value:02X}>": len(vocabulary) + value for value in range(256)})  # tokens, but not special
    return Tokenizer.from_str(json.dumps(described))


TOKENIZERS = {"byte_level": byte_level, "metaspace": metaspace}


def as_they_come(tokenizer: Any, prompt_ids: list[int], token_ids: list[int]) -> str:
    """What vLLM's output processor does."""
    from tokenizers.decoders import DecodeStream

    stream = DecodeStream(ids=prompt_ids, skip_special_tokens=True)
    return "".join(stream.step(tokenizer, token) or "" for token in token_ids)


@pytest.fixture(scope="module", params=TOKENIZERS)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    from transformers import PreTrainedTokenizerFast

    tokenizer = TOKENIZERS[request.param]()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    return tokenizer, wrapped


@pytest.mark.parametrize("prompt", ["the cat", "12 + 7 =", "café: "])
@pytest.mark.parametrize("completion", [" sat on the mat", "19", " 东京 🙂", "\n\nSo \\boxed{42}."])
def test_words_keep_the_space_before_them(pair: tuple[Any, Any], prompt: str, completion: str) -> None:
    tokenizer, wrapped = pair
    prompt_ids = tokenizer.encode(prompt).ids
    token_ids = tokenizer.encode(prompt + completion).ids[len(prompt_ids) :]
    assert completion_text(wrapped, prompt_ids, token_ids) == as_they_come(tokenizer, prompt_ids, token_ids)
    assert completion_text(wrapped, prompt_ids, token_ids).strip() in completion.strip()


def test_a_character_that_was_cut_is_left_out(pair: tuple[Any, Any]) -> None:
    tokenizer, wrapped = pair
    prompt_ids, whole = tokenizer.encode("the cat").ids, tokenizer.encode(" 🙂").ids
    assert completion_text(wrapped, prompt_ids, whole).endswith("🙂")
    cut = completion_text(wrapped, prompt_ids, whole[:-1])
    assert cut.strip() == as_they_come(tokenizer, prompt_ids, whole[:-1]).strip() == ""


def test_special_tokens_are_no_text(pair: tuple[Any, Any]) -> None:
    tokenizer, wrapped = pair
    start, end = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("</s>")
    word = tokenizer.encode("mat").ids
    assert completion_text(wrapped, [start], [*word, end]).strip() == "mat"
    assert completion_text(wrapped, [start], []) == ""


@settings(deadline=None)
@given(data=st.data())
def test_ordinary_text_is_read_alike(pair: tuple[Any, Any], data: st.DataObject) -> None:
    tokenizer, wrapped = pair
    words = st.lists(st.sampled_from(" ".join(CORPUS).split() + ["\n", "  "]), min_size=1, max_size=12).map(" ".join)
    prompt, completion = (tokenizer.encode(data.draw(words)).ids for _ in range(2))
    cut = completion[: data.draw(st.integers(0, len(completion)))]
    text, streamed = completion_text(wrapped, prompt, cut), as_they_come(tokenizer, prompt, cut)
    assert text.strip().startswith(streamed.strip())  # a token that ends within a character is held back whole there
    assert text == streamed or len(cut) < len(completion)
