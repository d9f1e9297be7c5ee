"""Every metric of a run: one registry of names, one durable table of values.

`MetricsWriter` appends to `metrics.jsonl`; `read_metrics` reads the table back, one row per step, with what the
audit measured joined in. Nothing is logged under a name that is not registered here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from orchestration.watch.event_file import EventFile
from orchestration.watch.jsonl import append_rows, current_rows, read_rows

if TYPE_CHECKING:
    from orchestration.watch.sinks.fan_out import Sinks
    from orchestration.watch.sinks.sink import StepFacts

FILE_NAME = "metrics.jsonl"
TIME_PARTS = ("rollout", "vote", "learn", "sync", "wait")
"""time/PART_seconds of a step sum to time/step_seconds."""


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """What one metric means."""

    name: str
    help: str
    unit: str
    """share (in [0, 1]), count, tokens, tokens/s, seconds, nats, bytes, ratio or value"""


_SPECS = """
rollout/completion_tokens_mean | tokens | Mean length of a completion, end-of-text token included
rollout/truncated_share | share | Completions cut at the length limit
rollout/tokens_per_second | tokens/s | Completion tokens per second of rollout, or of the step where it overlaps
rollout/prefilled_ratio | ratio | Prompt tokens computed over prompt tokens of the groups; 1.0: each prompt once
rollout/num_groups | count | Groups of the step
rollout/num_recovered | count | Groups taken from the durable log instead of being generated
rollout/num_samplers | count | Samplers at work at the end of the step
rollout/num_lost | count | Samplers that died or hung in the step
rollout/num_requeued | count | Groups handed out again because their sampler was lost, left or refused them
rollout/num_quarantined | count | Groups of the step given up because samplers died of them or refused them
rollout/idle_share | share | Part of the samplers' time without work
rollout/staleness_mean | count | Versions that the oldest token of a group is behind the policy it trains, mean
rollout/staleness_max | count | The same of the step's oldest group; never above rollout.max_off_policy_steps
rollout/split_versions_share | share | Groups whose tokens are of more than one version
rollout/length_bias_ratio | ratio | Mean completion length of the step over that of all steps so far
vote/reward_mean | value | Mean reward of the completions of rewarded groups
vote/agreement_mean | share | Winner's share of the vote; 0 on an unbroken tie and without answers
vote/margin_mean | share | Winner's share minus the runner-up's; 0 on an unbroken tie and without answers
vote/majority_ratio_mean | share | Size of the largest cluster over all completions, elected or not
vote/abstain_share | share | Completions that ended without an answer in the vote
vote/answered_share | share | Completions whose answer was counted; the six outcomes sum to 1
vote/unparsed_share | share | Completions in which no answer was found
vote/truncated_share | share | Completions cut at the length limit that therefore did not vote
vote/timed_out_share | share | Completions whose answer could not be read or compared in time
vote/error_share | share | Completions whose answer could not be read or compared for an error
vote/stopped_share | share | Completions stopped when the vote was decided; agreement is then a lower bound
vote/unanimous_share | share | Groups whose completions all gave one answer, those stopped left out: no learning signal
vote/no_label_share | share | Groups that elected nobody
vote/kept_share | share | Groups that stay in the batch after the vote
vote/label_flip_share | share | Prompts whose label is another one than at their last visit with a label
vote/distinct_answers_per_prompt | count | Mean number of different answers in a group
vote/answer_entropy_mean | nats | Mean entropy of a group's answers, abstentions left out
vote/distinct_answers | count | Different most common answers over the step's prompts
vote/modal_answer_share | share | Prompts whose most common answer is the one most common over prompts; 1.0: collapse
vote/modal_answer_entropy | nats | Entropy of the most common answers over prompts; 0: collapse
vote/teacher_agreement | share | Prompts whose own majority is the teacher's; there where a teacher answers them too
vote/view_agreement | share | Prompts whose majority is that of their other view; there with cross_view labels
vote/num_intransitive_merges | count | Pairs of answers put together though not equivalent directly
vote/num_undecided_pairs | count | Comparisons that failed or did not end; they count as unequal
vote/num_revealed_labels | count | Groups whose label was revealed, not elected
vote/unjudged_share | share | Completions paid 0 because the rule's own comparison did not end in time
vote/weight_mean | ratio | Mean weight of the groups that stay in the batch; 1 unless their prompts are weighed
vote/penalised_share | share | Groups that stay in the batch with a penalty on every advantage
vote/num_rounds | count | Rounds in which the step's prompts were drawn
vote/num_alarms | count | Alarms that the step's votes set off
vote/num_replicas | count | Voting replicas at work
guard/score | share | How sure the guard is that the policy collapses; from 1 on it raises its alarm
learn/loss | value | What is minimised, mean over the step's updates
learn/grad_norm | value | Norm of the gradient before clipping
learn/entropy_mean | nats | Mean token entropy of the policy
learn/clip_share | share | Trained tokens whose ratio left its range and lost its gradient
learn/kl_mean | nats | Mean token KL to the reference model; not there unless learner.kl asks for it
learn/kl_coefficient | value | Weight of the KL penalty in this step; there where it adapts
learn/importance_mean | value | Mean importance weight learner / sampler; there where learner.importance is on
learn/masked_share | share | Trained tokens that importance masks or weighs 0
learn/held_share | share | Trained tokens that learner.covariance held back
learn/value_loss | value | Critic's loss per trained token; there where the algorithm has one
learn/value_clipped_share | share | Trained tokens whose value moved beyond its clip range
learn/num_tokens | tokens | Completion tokens trained on
learn/num_updates | count | Optimizer calls of the step; 0 when the batch was empty
learn/num_skipped_updates | count | Updates left out because a loss or gradient was not finite
learn/num_micro_batches | count | Forward and backward passes per rank
learn/learning_rate | value | Learning rate of the step's last update
learn/tokens_per_second | tokens/s | Trained completion tokens per second of learning
learn/mfu_share | share | Model FLOP/s of learning over the peak of the ranks' GPUs; not there on CPU or an unknown GPU
learn/idle_share | share | Part of the step in which the learner neither learned nor sent weights
sync/logprob_gap_mean | nats | Mean absolute sampler - learner log-probability gap of trained tokens, before the update
sync/seconds | seconds | Publishing a version until every sampler holds it
sync/bytes | bytes | Bytes sent to each sampler
sync/num_checked_tensors | count | Tensors whose checksum was compared
time/step_seconds | seconds | The whole step; the five parts sum to it
time/rollout_seconds | seconds | Generating, with the tallies that run meanwhile
time/vote_seconds | seconds | Resolving the vote and rewarding
time/learn_seconds | seconds | Advantages and optimizer step
time/sync_seconds | seconds | Snapshot and weight transfer
time/wait_seconds | seconds | The rest of the step: bookkeeping between phases
time/bubble_share | share | Part of the samplers' and ranks' time without work; not there where they share GPUs
audit/label_accuracy | share | Pseudo-labels that equal the reference, of the prompts with both
audit/reward_accuracy | share | Completions of rewarded groups whose reward favours them exactly when they are right
audit/lucky_hit_share | share | The same, of groups whose label is wrong: wrong labels that still pay rightly
audit/average_accuracy | share | Right completions of the step's groups (avg@k)
audit/majority_accuracy | share | Groups whose most common answer is right; a tie is wrong (maj@k)
audit/generation_verification_gap | share | Majority accuracy minus average accuracy: what the vote can still teach
audit/pass_rate_share_zero | share | Groups in which no completion is right
audit/pass_rate_share_first_quarter | share | Groups with a pass rate in (0, 0.25]
audit/pass_rate_share_second_quarter | share | Groups with a pass rate in (0.25, 0.5]
audit/pass_rate_share_third_quarter | share | Groups with a pass rate in (0.5, 0.75]
audit/pass_rate_share_last_quarter | share | Groups with a pass rate in (0.75, 1)
audit/pass_rate_share_one | share | Groups in which every completion is right
audit/num_references | count | Groups of the step with a reference answer
eval/agreement_mean | share | Size of the largest cluster of answers over all completions; needs no reference
eval/health | share | What the guard picks checkpoints by: anchor's vote share, less what one answer took over
eval/anchor_agreement | share | Prompts whose majority is that of the run's first evaluation; needs no reference
eval/anchor_vote_share | share | Completions that give the first evaluation's majority answer; needs no reference
eval/modal_answer_share | share | Prompts whose most common answer is the one most common over prompts
eval/distinct_answers | count | Different most common answers over the evaluation's prompts
eval/label_flip_share | share | Prompts whose majority is not that of the evaluation before
eval/consistency_share | share | Prompts with one majority at both temperatures; there with second_temperature
eval/average_accuracy | share | avg@n on held-out prompts, macro average over data sources
eval/majority_accuracy | share | maj@n on held-out prompts, macro average; a tie is wrong
eval/pass_accuracy | share | pass@n on held-out prompts, macro average
eval/generation_verification_gap | share | maj@n minus avg@n
eval/abstain_share | share | Completions without an answer
eval/completion_tokens_mean | tokens | Mean length of a completion
eval/num_prompts | count | Prompts with a reference answer
"""


def _parse(specs: str) -> dict[str, MetricSpec]:
    rows = [line.split(" | ", 2) for line in specs.strip().splitlines()]
    return {name: MetricSpec(name, help_text, unit) for name, unit, help_text in rows}


METRICS: dict[str, MetricSpec] = _parse(_SPECS)
"""Every metric by name, in the order of the table."""


_LABELLED = ("average_accuracy", "majority_accuracy", "pass_accuracy", "generation_verification_gap", "num_prompts")


def needs_reference(name: str) -> bool:
    """Whether a metric is measured against reference answers, so that nothing that claims to need none may read it."""
    stage, _, what = name.partition("/")
    return stage == "audit" or (stage == "eval" and what in _LABELLED)


def check_names(names: Iterable[str]) -> None:
    """Raise ValueError for a name that is not registered, naming the nearest one that is."""
    for name in names:
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"metric {name!r} is not registered in orchestration.watch.metrics{hint}")


class MetricsWriter:
    """Appends metric rows to a run's `metrics.jsonl`; to TensorBoard events and the run's sinks when asked to."""

    def __init__(self, run_dir: str | Path, tensorboard: bool, sinks: Sinks | None = None) -> None:
        """
        Args:
            run_dir: the run directory.
            tensorboard: write event files under `tensorboard/` too.
            sinks: where values go besides.

        Raises:
            ResourceError: tensorboard is asked for and not installed.
        """
        self._path = Path(run_dir) / FILE_NAME
        self._events = EventFile(Path(run_dir) / "tensorboard") if tensorboard else None
        self._sinks = sinks

    def log(self, step: int, branch: int, incarnation: int, values: Mapping[str, float | None]) -> None:
        """Append one row, durable on return. Rows of the same step and writer add up to one.

        Args:
            step: the step.
            branch: of the run.
            incarnation: of the writer.
            values: by registered name; None or not finite means not measured.

        Raises:
            ValueError: a name is not registered.
            StorageError: the write failed; earlier rows are kept.
        """
        check_names(values)
        numbers = {name: None if value is None else float(value) for name, value in values.items()}
        append_rows(self._path, [{"step": step, "branch": branch, "incarnation": incarnation, **numbers}])
        if self._events is not None:
            self._events.write(step, numbers)
        if self._sinks is not None:
            self._sinks.write(step, numbers)

    def observe(self, facts: StepFacts) -> None:
        """Tell the sinks what a step has several values of; the table holds none of it."""
        if self._sinks is not None:
            self._sinks.observe(facts)

    def close(self, is_failed: bool = False) -> None:
        """Close the event file and the sinks, which are told whether an error ended it."""
        if self._events is not None:
            self._events.close()
        if self._sinks is not None:
            self._sinks.close(is_failed)


def read_metrics(run_dir: str | Path) -> pa.Table:
    """The table of a run's metrics.

    Each file's superseded rows are left out (per step the highest (branch, incarnation) counts); what the audit
    measured for a step joins its row and wins over what the driver logged of it.

    Returns:
        Columns step, branch, incarnation (int64), then every metric that was logged (float64, null where it was
        not measured), in the registry's order; rows in step order.
    """
    root = Path(run_dir)
    table: dict[int, dict[str, Any]] = {}
    for name in (FILE_NAME, "audit/labels.jsonl", "audit/eval.jsonl"):
        for step, rows in current_rows(read_rows(root / name)).items():
            target = table.setdefault(step, {key: rows[-1][key] for key in ("step", "branch", "incarnation")})
            for row in rows:
                target |= {key: row[key] for key in METRICS.keys() & row.keys()}
    rows = [table[step] for step in sorted(table)]
    names = [name for name in METRICS if any(name in row for row in rows)]
    columns = {key: pa.array([row[key] for row in rows], pa.int64()) for key in ("step", "branch", "incarnation")}
    columns |= {name: pa.array([row.get(name) for row in rows], pa.float64()) for name in names}
    return pa.table(columns)
