"""The bare side of `quorum bench pipeline`: one process, vLLM in process and a plain torch loop, no actors.

Runs as a child (`python -m benchmarks.bare`) that takes one JSON order per line on stdin and answers with one
JSON line on stdout, so that its threads and environment are its own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from benchmarks.orders import open_channel

MICRO_BATCH_ROWS = 16
"""Rows per forward pass, sorted by length: on CPU faster than 32, as fast as 8."""


def main() -> None:
    """Serve orders until stdin closes: {"do": "start" | "rollout" | "learn", ...}."""
    say = open_channel()
    side: BareSide | None = None
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "start":
            side = BareSide(order["model"], order["precision"], order["dtype"], order["max_model_len"])
            answer: dict[str, Any] = {"ok": True}
        else:
            assert side is not None
            answer = side.rollout(order) if order["do"] == "rollout" else side.learn()
        say(answer)


class BareSide:
    """The same rollout and the same update as one pipeline step, with nothing around them."""

    def __init__(self, model: str, precision: str, dtype: str, max_model_len: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM
        from vllm import LLM

        torch.set_num_threads(os.cpu_count() or 1)
        self.engine = LLM(
            model=model,
            dtype=dtype,
            enforce_eager=True,
            max_model_len=max_model_len,
            max_num_batched_tokens=max(8192, max_model_len),
            max_num_seqs=512,
            enable_chunked_prefill=False,
            enable_prefix_caching=True,
            block_size=32,
            generation_config="vllm",
            logprobs_mode="processed_logprobs",
            disable_log_stats=True,
        )
        learned = torch.float32 if precision == "float32" else torch.bfloat16
        self.policy = AutoModelForCausalLM.from_pretrained(model, dtype=learned)
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=1e-6, betas=(0.9, 0.95), weight_decay=0.01)
        self.rows: list[tuple[list[int], list[int]]] = []

    def rollout(self, order: dict[str, Any]) -> dict[str, Any]:
        """Draw k completions per prompt with the pipeline's seeds. Returns seconds and tokens."""
        from vllm import SamplingParams

        prompts = order["prompts"]
        params = [
            SamplingParams(n=order["k"], temperature=1.0, max_tokens=order["max_tokens"], logprobs=0, seed=seed)
            for seed in order["seeds"]
        ]
        began = time.monotonic()
        outputs = self.engine.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
        seconds = time.monotonic() - began
        self.rows = [
            (prompt, list(completion.token_ids))
            for prompt, output in zip(prompts, outputs, strict=True)
            for completion in output.outputs
        ]
        return {"seconds": seconds, "tokens": sum(len(tokens) for _, tokens in self.rows)}

    def learn(self) -> dict[str, Any]:
        """One policy-gradient update on the rows of the last rollout. Returns seconds and tokens."""
        import torch

        began = time.monotonic()
        rows = sorted(self.rows, key=lambda row: len(row[0]) + len(row[1]))
        total = sum(len(tokens) for _, tokens in rows)
        self.optimizer.zero_grad()
        for start in range(0, len(rows), MICRO_BATCH_ROWS):
            part = rows[start : start + MICRO_BATCH_ROWS]
            width = max(len(prompt) + len(tokens) for prompt, tokens in part)
            ids = torch.zeros(len(part), width, dtype=torch.long)
            attend = torch.zeros(len(part), width, dtype=torch.long)
            mask = torch.zeros(len(part), width)
            for i, (prompt, tokens) in enumerate(part):
                size = len(prompt) + len(tokens)
                ids[i, :size] = torch.tensor(prompt + tokens)
                attend[i, :size] = 1
                mask[i, len(prompt) : size] = 1
            logits = self.policy(input_ids=ids, attention_mask=attend).logits[:, :-1].float()
            logprobs = torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None])[..., 0]
            advantages = torch.linspace(-1, 1, len(part))
            loss = -(advantages[:, None] * logprobs * mask[:, 1:]).sum() / total
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()
        return {"seconds": time.monotonic() - began, "tokens": total}


if __name__ == "__main__":
    main()
