"""Runs a Hugging Face model on a packed row, whatever attention it has.

A model is probed once: its own eager attention, one sequence at a time, says what is right. Where packed attention
differs from that (state space layers, chunked attention, code that goes around transformers' attention interface),
the row is padded for it instead.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface

from learner import sequence_parallel
from learner.attention import KINDS, NAME, Packing, packed_attention

logger = logging.getLogger(__name__)

AttentionInterface.register(NAME, packed_attention)
AttentionInterface.register(sequence_parallel.NAME, sequence_parallel.shared_attention)

PROBE_LENGTHS = (7, 3, 3, 1)
"""Sequences that a model is probed with: of different and of equal lengths."""
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-4}
"""Largest relative distance of the probe's hidden states from the right ones, by the weights' type."""
HALF_TOLERANCE = 5e-2
"""For the other types. Attention across sequences is further off, unless it hardly matters to the model."""


def run_body(model: Any, input_ids: Tensor, lengths: Sequence[int], continues: Sequence[int] = ()) -> Tensor:
    """Last hidden states of a packed row.

    Args:
        model: Hugging Face model, with or without a head, after `choose_attention`.
        input_ids: [1, T] sequences, one after another; equal lengths side by side are fastest. Where ranks share rows:
            this rank's slice.
        lengths: tokens of each sequence; they sum to the row's.
        continues: of each sequence the index of the one that it continues, which continues none itself; -1: none.
            Empty: no sequence continues another, as must be where ranks share rows.

    Returns:
        [T, H]
    """
    return _run(model.base_model, input_ids, lengths, continues, "last_hidden_state")


def run_model(model: Any, input_ids: Tensor, lengths: Sequence[int], continues: Sequence[int] = ()) -> Tensor:
    """[T, V] logits of a packed row; arguments as in `run_body`."""
    return _run(model, input_ids, lengths, continues, "logits")


def _run(module: Any, input_ids: Tensor, lengths: Sequence[int], continues: Sequence[int], output: str) -> Tensor:
    if module.config._attn_implementation in (NAME, sequence_parallel.NAME):
        packing = Packing(tuple(lengths), input_ids.device, tuple(continues))
        positions = sequence_parallel.own_slice(packing.positions, input_ids.shape[1])
        made = module(input_ids=input_ids, position_ids=positions, packing=packing, use_cache=False)
        return getattr(made, output).squeeze(0)
    parts = input_ids.squeeze(0).split(list(lengths))
    parents = continues or (-1,) * len(parts)
    whole = [part if i < 0 else torch.cat([parts[i], part]) for part, i in zip(parts, parents, strict=True)]
    padded = pad_sequence(whole, batch_first=True)  # causal: nothing sees padding
    made = getattr(module(input_ids=padded, use_cache=False), output)
    return torch.cat([row[len(ids) - len(part) : len(ids)] for row, ids, part in zip(made, whole, parts, strict=True)])


def choose_attention(model: Any) -> str:
    """Set the fastest attention function that gives packed sequences what each gets alone. Before ZeRO takes over.

    Returns:
        Its name; under any but `learner.attention.NAME` rows are padded.
    """
    loaded = model.config._attn_implementation
    if loaded == NAME or not model._can_set_attn_implementation():
        return loaded
    model.set_attn_implementation("eager")
    device = next(model.parameters()).device
    tokens = torch.arange(sum(PROBE_LENGTHS), device=device).remainder(model.config.get_text_config().vocab_size)
    with torch.no_grad():
        right = torch.cat([run_body(model, ids[None], (len(ids),)) for ids in tokens.split(PROBE_LENGTHS)])
        for name in (NAME, "sdpa"):
            if name == NAME and not _sees_only_its_sequence(model):
                continue
            if _is_right(model, name, tokens[None], right):
                break
        else:
            model.set_attn_implementation("eager")
    chosen = model.config._attn_implementation
    if chosen != NAME:
        logger.warning(
            "%s cannot attend within packed sequences: rows are padded to the longest of their micro-batch, under "
            "attention %r, which costs time and memory; a lower learner.max_tokens_per_micro_batch pads less",
            type(model).__name__,
            chosen,
        )
    return chosen


def _sees_only_its_sequence(model: Any) -> bool:
    """What short probes cannot show: kinds of layers that cut long sequences in another way than a sliding window."""
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or ()
    return KINDS.issuperset(kinds)


def _is_right(model: Any, name: str, tokens: Tensor, right: Tensor) -> bool:
    try:
        model.set_attn_implementation(name)
        got = run_body(model, tokens, PROBE_LENGTHS)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        logger.info("attention %r does not serve %s: %r", name, type(model).__name__, error)
        return False
    distance = (got.float() - right.float()).norm() / right.float().norm()
    return bool(distance <= TOLERANCES.get(right.dtype, HALF_TOLERANCE))
