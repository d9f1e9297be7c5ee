"""The policy as the learner sees it: packed token ids in, log-probabilities and entropies of completion tokens out.

Logits are computed at completion positions only, in chunks, and never kept whole for a large vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from configs.schema import ModelSection
from learner.attention import NAME as PACKED
from learner.attention import has_options, varlen_attn
from learner.body import choose_attention, run_body, run_model
from learner.elementwise import speed_up
from learner.scores import score
from learner.sequence_parallel import share_rows
from quorum.errors import DataError

logger = logging.getLogger(__name__)

MAX_LOGITS = 1 << 25
"""Logits held at once (128 MiB in float32); more are computed in chunks and again in the backward pass."""
MAX_GPU_LOGITS = 1 << 28
"""The same on a GPU (1 GiB in float32): each chunk reads the output layer's weights and adds to all of their gradient,
which of a large vocabulary costs more than a short chunk's products."""


class Policy(nn.Module):
    """A causal language model behind `forward(input_ids, lengths, positions, targets) -> (logprobs, entropies)`."""

    def __init__(
        self,
        model: nn.Module,
        *,
        temperature: float,
        autocast: torch.dtype | None = None,
        use_reentrant: bool = False,
        max_logits: int = MAX_LOGITS,
    ) -> None:
        """Wrap `model`, and choose its attention function; see `learner.body`.

        Args:
            model: Hugging Face causal language model.
            temperature: what logits are divided by, so that log-probabilities are those of the sampled distribution.
            autocast: compute type under which float32 weights are used; None computes in the weights' type.
            use_reentrant: kind of activation checkpointing; ZeRO-3 needs the reentrant one.
            max_logits: logits held at once.
        """
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.autocast = autocast
        self.use_reentrant = use_reentrant
        self.max_chunk = max(1, max_logits // model.config.get_text_config().vocab_size)
        speed_up(model)
        choose_attention(model)
        self.has_plain_head = _has_plain_head(model)
        share_rows(model)

    def shares_prompts(self, device: torch.device) -> bool:
        """Whether a prompt costs less where several completions continue it.

        Not where rows are padded or shared between ranks, nor on a GPU without the variable-length kernel, where a mask
        would take memory.
        """
        if self.model.config._attn_implementation != PACKED:
            return False
        dtype = self.autocast or next(self.model.parameters()).dtype
        return device.type == "cpu" or (dtype in (torch.float16, torch.bfloat16) and has_options(varlen_attn))

    def num_chunks(self, num_tokens: int) -> int:
        """In how many parts the logits of `num_tokens` positions are computed."""
        return max(1, -(-num_tokens // self.max_chunk))

    def forward(
        self,
        input_ids: Tensor,
        lengths: Sequence[int],
        positions: Tensor,
        targets: Tensor,
        num_chunks: int = 1,
        *,
        continues: Sequence[int] = (),
        want_entropy_gradient: bool = False,
        want_self_certainty: bool = False,
    ) -> tuple[Tensor, ...]:
        """Log-probabilities of `targets` and the entropies of the distributions they were drawn from.

        Args:
            input_ids: [1, T] sequences, one after another; none sees another. Where ranks share rows: this rank's
                slice, and of the completion tokens those in it.
            lengths: tokens of each sequence; they sum to the row's.
            positions: [N] indices into T whose next token is a target; the last one of a prompt may be there several
                times.
            targets: [N]
            num_chunks: calls of the output layer. Equal on all ranks, because under ZeRO-3 each is a collective.
            continues: of each sequence the index of the one that it continues; see `learner.body.run_body`.
            want_entropy_gradient: whether the entropies carry a gradient too.
            want_self_certainty: whether to return self-certainty as well.

        Returns:
            [N] float32 log-probabilities with gradient, [N] float32 entropies in nats, and if wanted [N] self-certainty
            without gradient: KL(uniform || p) = -mean(log p) - log(vocabulary) in nats (arXiv 2505.19590).
        """
        options = (want_entropy_gradient, want_self_certainty)
        with torch.autocast(input_ids.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            if not self.has_plain_head:
                return self._score(run_model(self.model, input_ids, lengths, continues)[positions], targets, *options)
            hidden = run_body(self.model, input_ids, lengths, continues)[positions]
            if num_chunks == 1:
                return self._head_and_score(hidden, targets, *options)
            parts = [
                checkpoint(self._head_and_score, part, part_targets, *options, use_reentrant=self.use_reentrant)
                for part, part_targets in zip(
                    hidden.tensor_split(num_chunks), targets.tensor_split(num_chunks), strict=True
                )
            ]
            return tuple(torch.cat(pieces) for pieces in zip(*parts, strict=True))

    def _head_and_score(self, hidden: Tensor, targets: Tensor, *options: bool) -> tuple[Tensor, ...]:
        return self._score(self.model.get_output_embeddings()(hidden), targets, *options)

    def _score(self, logits: Tensor, targets: Tensor, *options: bool) -> tuple[Tensor, ...]:
        logits = logits.float()
        if self.temperature != 1.0:
            logits = logits / self.temperature
        return score(logits, targets, *options)


def load_policy_model(
    section: ModelSection, dtype: torch.dtype, *, gradient_checkpointing: bool = False, use_reentrant: bool = False
) -> nn.Module:
    """Load a causal language model for training: dropout off, so that the ratio to the old policy is exactly 1.

    Raises:
        DataError: the directory or hub name holds no usable model.
    """
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(
            section.path,
            revision=section.revision,
            trust_remote_code=section.trust_remote_code,
            dtype=dtype,
        )
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"cannot load a causal language model from {section.path!r}: {error}") from error
    _turn_dropout_off(model)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    model.train()
    return model


def _turn_dropout_off(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def _has_plain_head(model: Any) -> bool:
    """Whether logits are just the output embedding of the last hidden state (no scaling, no soft cap)."""
    head = model.get_output_embeddings()
    if head is None or model.base_model is model:
        return False
    tokens, lengths = torch.arange(4, device=next(model.parameters()).device).unsqueeze(0), (4,)
    with torch.no_grad():
        plain, full = head(run_body(model, tokens, lengths)), run_model(model, tokens, lengths)
    same = torch.equal(plain, full) or torch.allclose(plain.float(), full.float(), rtol=1e-3, atol=1e-4)
    if not same:
        logger.warning("this model does more to its logits than its output layer: they are computed at every position")
    return same
