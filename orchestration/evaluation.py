"""Evaluation through the same samplers and voters: groups are drawn, tallied and logged here; the audit scores them.

The driver never sees a reference answer: the audit process reads the closed groups and writes `audit/eval.jsonl`.
What the driver says of an evaluation compares answers with answers (`watch/probe_set.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from configs.schema import RunConfig
from orchestration.group_table import StepRecord
from orchestration.rollout_phase import RecoveredGroup, RolloutPhase, fetch
from orchestration.watch.evaluate import evaluation_sampling
from orchestration.watch.probe_set import ProbeBook, consistency, majorities, probe_metrics
from quorum.errors import StorageError
from quorum.types import GroupKey, Prompt, Role, SamplingSettings, Tally


class Evaluator:
    """Draws and logs the evaluation groups of one run. A group's id is its prompt's index, so seeds repeat."""

    def __init__(
        self,
        config: RunConfig,
        rollout: RolloutPhase,
        log: Any,
        prompts: Sequence[Prompt],
        branch: int,
        incarnation: int = 0,
        book: ProbeBook | None = None,
    ) -> None:
        """Bind the parts.

        Args:
            config: of the run.
            rollout: draws the groups.
            log: actor handle of the GroupLogWriter.
            prompts: to evaluate on.
            branch: of the run.
            incarnation: of the run.
            book: where answers are kept, to compare later ones with; None compares with none.
        """
        self._config, self._rollout, self._log = config, rollout, log
        self._branch, self._incarnation, self._book = branch, incarnation, book
        self._prompts = prompts

    @property
    def roles(self) -> tuple[Role, ...]:
        """Of the groups that an evaluation draws."""
        is_drawn_again = self._config.evaluation.second_temperature is not None and self._book is not None
        return (Role.EVAL, Role.PROBE) if is_drawn_again else (Role.EVAL,)

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
        rollout, section = self._config.rollout, self._config.evaluation
        sampling = evaluation_sampling(section, rollout.max_completion_tokens, rollout.stop)
        drawn = {Role.EVAL: self._draw(Role.EVAL, sampling, step, version, recovered, on_finished)}
        if Role.PROBE in self.roles:
            other = section.model_copy(update={"temperature": section.second_temperature})
            again = evaluation_sampling(other, rollout.max_completion_tokens, rollout.stop)
            drawn[Role.PROBE] = self._draw(Role.PROBE, again, step, version, recovered, on_finished)
        tallies = drawn[Role.EVAL]
        names = [self._prompts[index].prompt_id for index in tallies]
        if self._book is None:
            return probe_metrics(list(tallies.values()), names, {}, {})
        before = self._book.before(step)
        self._book.write(step, self._branch, self._incarnation, majorities(list(tallies.values()), names))
        values = probe_metrics(list(tallies.values()), names, self._book.anchor(), before)
        if Role.PROBE in drawn:
            both = [index for index in tallies if index in drawn[Role.PROBE]]
            share = consistency([tallies[i] for i in both], [drawn[Role.PROBE][i] for i in both])
            values |= {} if share is None else {"eval/consistency_share": share}
        return values

    def _draw(
        self,
        role: Role,
        sampling: SamplingSettings,
        step: int,
        version: int,
        recovered: Mapping[GroupKey, RecoveredGroup] | None,
        on_finished: Callable[[int], None],
    ) -> dict[int, Tally]:
        """One draw of all prompts, in its closed file; tallies by the prompt's index."""
        keys = [GroupKey(self._branch, role, index) for index in range(len(self._prompts))]
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
        ref = self._log.close_step.remote(step, self._branch, role, records, *[finished[key].group for key in keys])
        timeout = self._config.deadlines.save_seconds
        fetch([ref], timeout, "close the evaluation's file", StorageError)
        return {key.group_id: tally for key, tally in zip(keys, tallies, strict=True)}
