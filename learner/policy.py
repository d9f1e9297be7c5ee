"""The policy as the learner sees it: token ids in, log-probabilities and entropies of completion tokens out.

Logits are computed at completion positions only, in chunks, and never kept whole for a large vocabulary.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from configs.schema import ModelSection
from quorum.errors import DataError

logger = logging.getLogger(__name__)

MAX_LOGITS = 1 << 25
"""Logits held at once (128 MiB in float32); more are computed in chunks and again in the backward pass."""


class Policy(nn.Module):
    """A causal language model behind `forward(input_ids, positions, targets) -> (logprobs, entropies)`."""

    def __init__(
        self,
        model: nn.Module,
        *,
        temperature: float,
        autocast: torch.dtype | None = None,
        use_reentrant: bool = False,
        max_logits: int = MAX_LOGITS,
    ) -> None:
        """Wrap `model`.

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
        self.has_plain_head = _has_plain_head(model)

    def num_chunks(self, num_tokens: int) -> int:
        """In how many parts the logits of `num_tokens` positions are computed."""
        return max(1, -(-num_tokens // self.max_chunk))

    def forward(
        self, input_ids: Tensor, positions: Tensor, targets: Tensor, num_chunks: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of `targets` and the entropies of the distributions they were drawn from.

        Args:
            input_ids: [B, L] right-padded; causal attention keeps padding out of every real position.
            positions: [N] flat indices into B * L whose next token is a target.
            targets: [N]
            num_chunks: calls of the output layer. Equal on all ranks, because under ZeRO-3 each is a collective.

        Returns:
            ([N] float32 log-probabilities with gradient, [N] float32 entropies in nats without).
        """
        with torch.autocast(input_ids.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            if not self.has_plain_head:
                logits = self.model(input_ids=input_ids, use_cache=False).logits
                return self._score(logits.flatten(0, 1)[positions], targets)
            hidden = self.model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
            hidden = hidden.flatten(0, 1)[positions]
            if num_chunks == 1:
                return self._score(self._head(hidden), targets)
            parts = [
                checkpoint(self._head_and_score, part, part_targets, use_reentrant=self.use_reentrant)
                for part, part_targets in zip(
                    hidden.tensor_split(num_chunks), targets.tensor_split(num_chunks), strict=True
                )
            ]
            return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _head(self, hidden: Tensor) -> Tensor:
        return self.model.get_output_embeddings()(hidden)

    def _head_and_score(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return self._score(self._head(hidden), targets)

    def _score(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits.float()
        if self.temperature != 1.0:
            logits = logits / self.temperature
        log_softmax = torch.log_softmax(logits, dim=-1)
        logprobs = log_softmax.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        with torch.no_grad():
            entropies = -(log_softmax.exp() * log_softmax.clamp_min(torch.finfo(torch.float32).min)).sum(-1)
        return logprobs, entropies


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
            attn_implementation="sdpa",
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
    device = next(model.parameters()).device
    tokens = torch.arange(4, device=device).unsqueeze(0)
    with torch.no_grad():
        hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        plain, full = head(hidden), model(input_ids=tokens, use_cache=False).logits
    same = torch.equal(plain, full) or torch.allclose(plain.float(), full.float(), rtol=1e-3, atol=1e-4)
    if not same:
        logger.warning("this model does more to its logits than its output layer: they are computed at every position")
    return same
