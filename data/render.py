"""From a prompt column's value to the text and tokens a model is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from configs.schema import DataSection
from quorum.errors import DataError
from quorum.types import Int32Array, Message

TOKENIZE_BATCH = 1024


class RenderedText(NamedTuple):
    """A prompt as text, and the chat turns it came from (none for plain text)."""

    text: str
    messages: tuple[Message, ...]


def uses_chat_template(tokenizer: Any, section: DataSection) -> bool:
    """Whether prompts go through the tokenizer's chat template."""
    return section.chat_template == "auto" and bool(getattr(tokenizer, "chat_template", None))


def render_text(value: Any, where: str, tokenizer: Any, section: DataSection) -> RenderedText:
    """Render one prompt: suffix on the last user turn, then the chat template when there is one.

    Without a template chat turns become their contents, one blank line apart; a plain string stays as it is.

    Args:
        value: A string, or a list of {role, content}.
        where: Names the row in messages.

    Raises:
        DataError: the value is neither, is empty, or the chat template refuses it.
    """
    if isinstance(value, str):
        if not value.strip():
            raise DataError(f"{where}: the prompt is empty")
        messages: tuple[Message, ...] = (Message(role="user", content=value),)
    else:
        messages = _parse_messages(value, where)
    messages = _append_suffix(messages, section.prompt_suffix, where)
    if uses_chat_template(tokenizer, section):
        return RenderedText(_apply_template(tokenizer, messages, where), messages)
    return RenderedText("\n\n".join(m.content for m in messages), () if isinstance(value, str) else messages)


def tokenize(texts: Sequence[str], tokenizer: Any, section: DataSection) -> list[Int32Array]:
    """Tokens of rendered prompts, [T] each.

    A chat template writes its own special tokens; plain text gets the ones that the tokenizer adds (a
    beginning-of-text token, say).
    """
    add_special = not uses_chat_template(tokenizer, section)
    tokens: list[Int32Array] = []
    for start in range(0, len(texts), TOKENIZE_BATCH):
        batch = tokenizer(list(texts[start : start + TOKENIZE_BATCH]), add_special_tokens=add_special)
        tokens.extend(np.asarray(ids, dtype=np.int32) for ids in batch["input_ids"])
    return tokens


def _parse_messages(value: Any, where: str) -> tuple[Message, ...]:
    if not isinstance(value, (list, tuple)):
        raise DataError(
            f"{where}: the prompt must be a string or a list of {{role, content}}, got {type(value).__name__}"
        )
    messages = []
    for turn in value:
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(f"{where}: each chat turn needs role and content as strings, got {turn!r:.80}")
        messages.append(Message(role=role, content=content))
    if not any(message.content.strip() for message in messages):
        raise DataError(f"{where}: the prompt is empty")
    return tuple(messages)


def _append_suffix(messages: tuple[Message, ...], suffix: str, where: str) -> tuple[Message, ...]:
    if not suffix:
        return messages
    users = [index for index, message in enumerate(messages) if message.role == "user"]
    if not users:
        raise DataError(f"{where}: data.prompt_suffix goes on the last user turn, but the prompt has none")
    last = messages[users[-1]]
    changed = Message(role=last.role, content=last.content + suffix)
    return (*messages[: users[-1]], changed, *messages[users[-1] + 1 :])


def _apply_template(tokenizer: Any, messages: tuple[Message, ...], where: str) -> str:
    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    except Exception as exc:  # Jinja templates raise their own classes; all mean the same to the user.
        reason = " ".join(str(exc).split())
        raise DataError(f"{where}: the tokenizer's chat template refuses the prompt: {reason}") from exc
