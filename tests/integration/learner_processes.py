"""Learner ranks in plain processes, for tests of many small groups of them.

A fork server imports torch, transformers and DeepSpeed once; a rank then starts in well under a second. The
ranks are the actor class itself, called over pipes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.schema import RunConfig
from learner.checkpoint import publish_checkpoint
from learner.orders import plan_step
from learner.rank import Rank, RankSettings
from quorum.types import ScoredGroup, TrainingBatch
from tests.builders import make_receipt

SECONDS = 120
PRELOAD = ["torch", "transformers.models.qwen2.modeling_qwen2", "transformers.models.auto.modeling_auto", "deepspeed"]


def context() -> Any:
    """A fork server with the heavy imports done; started on first use, shared by all tests."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    os.environ["OMP_NUM_THREADS"] = "1"
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload([*PRELOAD, "learner.update", "learner.transfer", "learner.policy"])
    return made


def make_model(directory: Path, *, hidden_size: int = 64, num_hidden_layers: int = 2) -> Path:
    """A random Qwen2 with tied embeddings, 64 tokens and its tokenizer."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        eos_token_id=1,
        pad_token_id=0,
    )
    Qwen2ForCausalLM(config).save_pretrained(directory)
    words = Tokenizer(models.WordLevel({str(i): i for i in range(64)}, unk_token="0"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="1", pad_token="0").save_pretrained(directory)
    return directory


def make_config(model: Path, *, num_ranks: int = 2, zero_stage: int = 2, **learner: Any) -> RunConfig:
    """A run configuration in fp32 with a learning rate that moves the tiny model visibly."""
    defaults = {"precision": "float32", "learning_rate": 1e-3, "max_tokens_per_micro_batch": 200}
    section = {**defaults, "num_ranks": num_ranks, "zero_stage": zero_stage, **learner}
    deadlines = {"start_seconds": SECONDS, "learn_seconds": SECONDS, "sync_seconds": 30, "stop_seconds": 20}
    return RunConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "model": {"path": str(model)},
            "data": {"train": [{"path": "unused.jsonl"}]},
            "rollout": {"dtype": "float32"},
            "learner": section,
            "deadlines": deadlines,
        }
    )


def make_batch(groups: Sequence[ScoredGroup], step: int = 0) -> TrainingBatch:
    """A training batch of scored groups with their receipts."""
    return TrainingBatch(step=step, branch=0, groups=tuple(groups), receipts=tuple(map(make_receipt, groups)))


def _serve(pipe: Any, settings: RankSettings, kind: type[Rank]) -> None:
    rank = kind(settings)
    while True:
        method, args = pipe.recv()
        if method is None:
            return
        try:
            pipe.send((True, getattr(rank, method)(*args)))
        except Exception as error:  # noqa: BLE001 - handed to the test
            pipe.send((False, error))


class Ranks:
    """All ranks of one learner, started; use as a context manager. `kind` may add methods to look inside."""

    def __init__(self, config: RunConfig, kind: type[Rank] = Rank) -> None:
        self.config = config
        made = context()
        self.pipes, self.processes = [], []
        for rank in range(config.learner.num_ranks):
            ours, theirs = made.Pipe()
            settings = RankSettings(config, rank, config.learner.num_ranks, "cpu", True)
            process = made.Process(target=_serve, args=(theirs, settings, kind), daemon=True)
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)

    def __enter__(self) -> Ranks:
        host, port = self.call(0, "open_rendezvous")
        self.all("start", host, port)
        return self

    def __exit__(self, *_: object) -> None:
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            with contextlib.suppress(BrokenPipeError):  # a test may have killed it
                pipe.send((None, ()))
            process.join(5)
            process.kill()
            process.join(5)

    def call(self, rank: int, method: str, *args: Any) -> Any:
        """One rank's answer."""
        self.pipes[rank].send((method, args))
        return self.answer(rank, method)

    def all(self, method: str, *args: Any, each: Sequence[tuple[Any, ...]] | None = None) -> list[Any]:
        """Every rank's answer to a collective call; `each` gives arguments per rank."""
        for rank, pipe in enumerate(self.pipes):
            pipe.send((method, each[rank] if each else args))
        return [self.answer(rank, method) for rank in range(len(self.pipes))]

    def answer(self, rank: int, method: str) -> Any:
        """What `rank` answers to the call made last."""
        if not self.pipes[rank].poll(SECONDS):
            raise TimeoutError(f"rank {rank} did not answer {method}")
        succeeded, value = self.pipes[rank].recv()
        if not succeeded:
            raise value
        return value

    def step(self, batch: TrainingBatch, max_tokens: int | None = None) -> Any:
        """One step; returns the global sums, after checking that all ranks agree on them."""
        section = self.config.learner
        if max_tokens:
            section = section.model_copy(update={"max_tokens_per_micro_batch": max_tokens})
        planned = plan_step(batch, self.config.model_copy(update={"learner": section}))
        assert planned is not None
        groups = dict(enumerate(batch.groups))
        answers = self.all("step", each=[(orders, groups) for orders in planned.orders])
        assert all(_equal(answer, answers[0]) for answer in answers)
        return answers[0]

    def save(self, directory: Path, client_state: dict[str, Any] | None = None) -> None:
        """A whole checkpoint below `directory`."""
        path = str(directory)
        self.call(0, "clear_staging", path)
        description = self.all("save", path, client_state or {})[0]
        hashes = {name: value for part in self.all("hash_saved", path) for name, value in part.items()}
        publish_checkpoint(directory, hashes, description)

    def weights(self, directory: Path) -> Any:
        """[num_parameters] all weights, through an export, flat in name order."""
        import torch
        from safetensors.torch import load_file

        self.all("export", str(directory))
        state = load_file(directory / "model.safetensors")
        return torch.cat([state[name].reshape(-1) for name in sorted(state)])


def _equal(one: Any, other: Any) -> bool:
    return repr(one) == repr(other)
