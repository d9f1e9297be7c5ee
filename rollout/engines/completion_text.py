"""A completion's text, decoded once when it is finished.

vLLM would decode every token as it comes, and each once more for the log-probabilities: work on the cores that sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CONTEXT_TOKENS = 8
"""Last tokens of the prompt that the completion is decoded behind, for the spaces between them."""
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""What tokenizers make of bytes that are no whole character yet."""


def completion_text(tokenizer: Any, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> str:
    """Text of a completion as it stands behind its prompt, without special tokens.

    Args:
        tokenizer: of transformers.
        prompt_ids: the prompt.
        token_ids: the completion, without the token that ended it.

    Returns:
        The text. A character that the last tokens only began is left out.
    """
    before = list(prompt_ids[-CONTEXT_TOKENS:])
    prefix = _decode(tokenizer, before)
    whole = _decode(tokenizer, [*before, *token_ids])
    text = whole[len(prefix) :] if whole.startswith(prefix) else _decode(tokenizer, list(token_ids))
    return text.rstrip(INCOMPLETE)


def _decode(tokenizer: Any, token_ids: list[int]) -> str:
    text: str = tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text
