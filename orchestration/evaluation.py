"""Evaluation through the same samplers and voters: groups are drawn, tallied and logged here; the audit scores them.

The driver never sees a reference answer: the audit process reads the closed groups and writes `audit/eval.jsonl`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from configs.schema import RunConfig
from orchestration.group_log import StepRecord
from orchestration.rollout_phase import RecoveredGroup, RolloutPhase, fetch
from orchestration.watch.evaluate import evaluation_sampling
from quorum.errors import StorageError
from quorum.types import GroupKey, Prompt, Role


class Evaluator:
    """Draws and logs the evaluation groups of one run. A group's id is its prompt's index, so seeds repeat."""

    def __init__(
        self, config: RunConfig, rollout: RolloutPhase, log: Any, prompts: Sequence[Prompt], branch: int
    ) -> None:
        self._config, self._rollout, self._log, self._branch = config, rollout, log, branch
        self._prompts = prompts

    def is_due(self, step: int) -> bool:
        """Whether to evaluate after `step` steps."""
        every = self._config.evaluation.every_steps
        if not self._prompts:
            return False
        return step in (0, self._config.run.num_steps) or bool(every and step % every == 0)

    def run(
        self,
        step: int,
        version: int,
        recovered: Mapping[GroupKey, RecoveredGroup] | None = None,
        on_finished: Callable[[int], None] = lambda done: None,
    ) -> dict[str, float]:
        """Draw all evaluation groups with the current policy and close their file.

        Args:
            step: steps done.
            version: policy version the samplers hold.
            recovered: groups of this evaluation that an earlier incarnation finished.
            on_finished: called with the number of groups finished so far.

        Returns:
            Metrics that need no reference answer.
        """
        rollout = self._config.rollout
        sampling = evaluation_sampling(self._config.evaluation, rollout.max_completion_tokens, rollout.stop)
        keys = [GroupKey(self._branch, Role.EVAL, index) for index in range(len(self._prompts))]
        requests = [
            self._rollout.request(key, prompt, sampling, version)
            for key, prompt in zip(keys, self._prompts, strict=True)
        ]
        finished = self._rollout.run(requests, step, recovered, on_finished)
        keys = [key for key in keys if key in finished]  # without those that no sampler could draw
        tallies = self._rollout.tallies([(key, finished[key].tally) for key in keys], step)
        self._rollout.settle_tallies()
        records = [
            StepRecord(key=key, tally=tally, resolution=None, end_state=None)
            for key, tally in zip(keys, tallies, strict=True)
        ]
        ref = self._log.close_step.remote(
            step, self._branch, Role.EVAL, records, *[finished[key].group for key in keys]
        )
        timeout = self._config.deadlines.save_seconds
        fetch([ref], timeout, "close the evaluation's file", StorageError)
        shares = [max(tally.sizes, default=0) / len(tally.answers) for tally in tallies]
        return {"eval/agreement_mean": sum(shares) / max(1, len(shares))}
