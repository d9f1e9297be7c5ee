"""The configuration of a run: strict, frozen, typed. Imports no stage and no heavy library.

Each fact stands once; what follows from others is a property. Checks that need the model, the data or the
cluster live in `orchestration.plan`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from configs.guard_section import GuardSection
from configs.learner_sections import (
    CovarianceSection,
    CriticSection,
    ImportanceSection,
    KLSection,
    LearnerSection,
    LoraSection,
    OverlongSection,
)
from configs.prompt_sections import FlipSection, GateSection, PromptSection
from configs.ramp import Ramp
from configs.rollout_sections import (
    AutoscaleSection,
    DispatchSection,
    FleetSection,
    RestartSection,
    RolloutSection,
)
from configs.sections import NonNegativeFloat, NonNegativeInt, Plugin, PositiveFloat, PositiveInt, Section, Share
from configs.voting_sections import (
    AlarmSection,
    BatchSection,
    ElectionSection,
    TrainSubsetSection,
    VotingSection,
    VotingServiceSection,
)

__all__ = [
    "AlarmSection",
    "AutoscaleSection",
    "BatchSection",
    "CheckpointSection",
    "ClusterSection",
    "ColumnNames",
    "CovarianceSection",
    "CriticSection",
    "DataSection",
    "DataSource",
    "DeadlineSection",
    "DispatchSection",
    "ElectionSection",
    "EvaluationSection",
    "FleetSection",
    "FlipSection",
    "GateSection",
    "GuardSection",
    "ImportanceSection",
    "KLSection",
    "LearnerSection",
    "LoraSection",
    "ModelSection",
    "OverlongSection",
    "Plugin",
    "PromptSection",
    "Ramp",
    "ReportSection",
    "RestartSection",
    "RolloutSection",
    "RunConfig",
    "RunSection",
    "Section",
    "Share",
    "SyncSection",
    "TrainSubsetSection",
    "VotingSection",
    "VotingServiceSection",
]


class RunSection(Section):
    """The run itself."""

    dir: str
    """Run directory: a local path. Must not exist unless the run is resumed."""
    mode: Literal["train", "rollout_only", "train_only"] = "train"
    """rollout_only: samplers and voting without a learner: the weights never change, groups end as dropped:vote_only.
    train_only: the learner without samplers: votes again on the stored groups of `data.groups` and learns from them."""
    seed: NonNegativeInt = 0
    """Seeds prompt order and every sampled token."""
    num_steps: PositiveInt = 100
    """Steps to train; one step is one batch of groups and one published policy version."""
    plugins: tuple[str, ...] = ()
    """Python modules imported in driver, samplers, voters, ranks and audit before plug-ins are looked up."""
    max_empty_steps: PositiveInt = 5
    """Steps in a row without any trainable group before the run ends with an error."""


class ModelSection(Section):
    """The base model: any Hugging Face causal language model."""

    path: str
    """Directory or hub name, with weights and tokenizer."""
    revision: str | None = None
    """Hub revision; None takes the default branch."""
    trust_remote_code: bool = False
    """Run code that ships with the model."""


class ColumnNames(Section):
    """Which columns of the data hold what. Dots reach into nested records (`reward_model.ground_truth`)."""

    prompt: str = "prompt"
    """A string, or a list of chat messages with role and content."""
    answer: str | None = None
    """Reference answer for evaluation and audit; None tries `answer`, then `reward_model.ground_truth`."""
    paraphrase: str | None = None
    """The same question in other words: each row then gives two prompts, for `voting.labels: cross_view`."""
    id: str | None = None
    """Stable row key; None uses the row's index."""
    data_source: str | None = None
    """Column naming the data set; None tries `data_source`, then the path's name."""


class DataSource(Section):
    """One data set of prompts."""

    path: str
    """JSONL or Parquet file or glob, `datasets` directory, hub name, or `reasoning_gym:TASK`."""
    format: Literal["auto", "jsonl", "parquet", "datasets", "hub", "reasoning_gym"] = "auto"
    """auto goes by the path."""
    split: str = "train"
    """Split of a `datasets` directory or hub name."""
    columns: ColumnNames = ColumnNames()
    """Column names."""
    references: str | None = None
    """File with the reference answers, apart from the prompts (Parquet or JSONL, joined by the id column). None: the
    file that the prompts name, as those of `quorum data` do, else the prompts' own answer column."""
    task_options: dict[str, Any] = {}
    """Parameters of a reasoning-gym task (its own names)."""
    size: PositiveInt | None = None
    """Rows to take from the front, or to generate for reasoning_gym (needed there)."""
    seed: NonNegativeInt = 0
    """Seed of a generated task."""
    extractor: str | None = None
    """Answer extractor for these prompts; None uses voting.extractor."""


class DataSection(Section):
    """Prompts to train on, and how they are rendered."""

    train: tuple[DataSource, ...] = Field(min_length=1)
    """Data sets, concatenated."""
    groups: str | None = None
    """Run (directory, or name under runs/) whose stored groups `run.mode: train_only` trains on, in their order."""
    shuffle: bool = True
    """Shuffle each epoch by the run's seed; otherwise file order."""
    chat_template: Literal["auto", "never"] = "auto"
    """auto uses the tokenizer's chat template when it has one."""
    prompt_suffix: str = ""
    """Appended to the last user turn: " Let's think step by step and output the final answer within \\\\boxed{}."."""
    max_prompt_tokens: PositiveInt = 1024
    """Longer prompts are handled by on_long_prompt."""
    on_long_prompt: Literal["drop", "error"] = "drop"
    """drop leaves the prompt out and counts it; error refuses the data."""


class SyncSection(Section):
    """Weight transfer from learner to samplers."""

    backend: Literal["auto", "gloo", "nccl", "ipc"] = "auto"
    """auto: gloo on CPU; on GPUs ipc when samplers and learner share one device, else nccl."""
    bucket_mib: PositiveInt = 256
    """Size of one packed bucket in MiB."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port the learner listens on for samplers to join; 0 takes any free one."""
    verify_every: NonNegativeInt = 1
    """Compare checksums of learner and samplers every N published versions; 0 never."""
    kv_cache: Literal["recompute", "keep"] = "recompute"
    """What becomes of the KV cache of completions that run while weights are swapped. recompute: it is computed again
    with the new weights. keep: old keys and values stay, and what follows is neither policy's distribution."""
    lora: Literal["merged", "adapters"] = "merged"
    """What travels with `learner.lora`. merged: whole weights. adapters: the low-rank matrices alone; samplers add them
    to base weights that they read from the model directory each time. The same bits, far fewer bytes on the wire."""
    join_seconds: PositiveFloat = 30
    """For all members of a transfer to connect."""


class EvaluationSection(Section):
    """Evaluation on held-out prompts while training; its answers never reach the vote."""

    data: tuple[DataSource, ...] = ()
    """Data sets with reference answers; empty turns evaluation off."""
    every_steps: NonNegativeInt = 0
    """Evaluate every N steps; 0 only before the first and after the last step."""
    completions_per_prompt: PositiveInt = 16
    """n of avg@n and maj@n."""
    temperature: NonNegativeFloat = 1.0
    """0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling."""
    second_temperature: NonNegativeFloat | None = None
    """Draw the prompts again at this temperature while training, for eval/consistency_share: whether the majority is
    the same at both. None draws once."""


class CheckpointSection(Section):
    """What is saved to resume from."""

    every_steps: NonNegativeInt = 50
    """Save every N steps; 0 only at the end and on signals."""
    keep: PositiveInt = 2
    """Newest checkpoints kept."""
    keep_best: NonNegativeInt = 0
    """Checkpoints kept besides for doing best in evaluation; one that is among the best N is saved at once."""
    best_metric: Literal[
        "eval/agreement_mean",
        "eval/health",
        "eval/average_accuracy",
        "eval/majority_accuracy",
        "eval/pass_accuracy",
    ] = "eval/agreement_mean"
    """What tells the best. eval/agreement_mean and eval/health use no label, and eval/health falls in a collapse; the
    others choose by reference answers, through the audit."""


class ClusterSection(Section):
    """Where the actors run."""

    address: str = "local"
    """local starts Ray on this machine; otherwise an existing cluster ("auto", "HOST:PORT")."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes cuda when the cluster has GPUs."""
    cpus_per_sampler: PositiveInt = 1
    """Logical CPUs of a sampler per tensor-parallel worker; on CPU also its threads."""
    cpus_per_rank: PositiveInt = 1
    """Logical CPUs of a learner rank; on CPU also its threads."""
    colocate: bool = False
    """One sampler and one rank share one GPU (weights go by CUDA IPC)."""
    kv_cache_gib: PositiveFloat = 1.0
    """KV cache per CPU sampler in GiB."""


class DeadlineSection(Section):
    """Every wait ends. Seconds without progress before a wait is given up."""

    start_seconds: PositiveFloat = 600
    """Until an actor is placed and its engine or rank is ready."""
    rollout_seconds: PositiveFloat = 300
    """Without a new token from a busy sampler; then it counts as hung and is replaced."""
    probe_seconds: PositiveFloat = 15
    """For the engine process of an idle sampler to answer; asked as often."""
    vote_seconds: PositiveFloat = 120
    """For the tallies and rewards of one group, and for the audit to score an evaluation."""
    learn_seconds: PositiveFloat = 1800
    """Without a finished micro-batch in an update."""
    sync_seconds: PositiveFloat = 300
    """For one weight transfer."""
    save_seconds: PositiveFloat = 600
    """For a checkpoint or an export."""
    stop_seconds: PositiveFloat = 30
    """For actors to end after the run; then they are killed."""


class ReportSection(Section):
    """What is shown and written beside the groups."""

    tensorboard: bool = True
    """Write TensorBoard events."""
    sinks: tuple[Plugin, ...] = ()
    """Where metrics go besides: wandb, mlflow, prometheus, tensorboard (in a directory of your own). One that fails is
    told of once and switched off; the run goes on."""
    trace: NonNegativeInt = 0
    """Write a timeline of every Nth step to trace/, for Perfetto; 0 writes none."""
    audit: bool = True
    """Score pseudo-labels and evaluations against reference answers, where the data has them, in a process of its own;
    false draws evaluations without scoring them."""
    live: Literal["auto", "never"] = "auto"
    """auto shows a live display in a terminal and plain lines elsewhere."""
    num_sample_prompts: NonNegativeInt = 3
    """Prompts shown in the report and at the end, each with its group before and after."""


class RunConfig(Section):
    """A whole run."""

    run: RunSection
    model: ModelSection
    data: DataSection
    rollout: RolloutSection = RolloutSection()
    voting: VotingSection = VotingSection()
    learner: LearnerSection = LearnerSection()
    sync: SyncSection = SyncSection()
    evaluation: EvaluationSection = EvaluationSection()
    checkpoint: CheckpointSection = CheckpointSection()
    guard: GuardSection = GuardSection()
    cluster: ClusterSection = ClusterSection()
    deadlines: DeadlineSection = DeadlineSection()
    report: ReportSection = ReportSection()

    @property
    def max_model_len(self) -> int:
        """Context the engine is started with, in tokens."""
        return self.rollout.max_model_len or self.data.max_prompt_tokens + self.rollout.max_completion_tokens

    @property
    def run_path(self) -> Path:
        return Path(self.run.dir)

    @model_validator(mode="after")
    def _check_arithmetic(self) -> RunConfig:
        problems = []
        k = self.rollout.completions_per_prompt
        if k < 2:
            problems.append(
                f"rollout.completions_per_prompt is {k}: a vote needs at least 2 completions per prompt "
                "(with one, every answer agrees with itself); set it to 2 or more"
            )
        needed = self.data.max_prompt_tokens + self.rollout.max_completion_tokens
        if self.rollout.max_model_len is not None and self.rollout.max_model_len < needed:
            problems.append(
                f"prompt {self.data.max_prompt_tokens:,} + completion {self.rollout.max_completion_tokens:,} tokens = "
                f"{needed:,} exceed rollout.max_model_len {self.rollout.max_model_len:,}: raise it, or lower "
                "data.max_prompt_tokens or rollout.max_completion_tokens"
            )
        if self.cluster.colocate and self.sync.backend == "nccl":
            problems.append("cluster.colocate shares one GPU, which nccl cannot; set sync.backend to auto or ipc")
        if self.sync.lora == "adapters" and not self.learner.lora.rank:
            problems.append(
                "sync.lora=adapters sends adapters, and there are none: set learner.lora.rank, or sync.lora to merged"
            )
        problems += self.rollout.problems()
        problems += self._overlap_problems()
        problems += self._checkpoint_problems()
        problems += self._guard_problems()
        problems += self._mode_problems()
        problems += self.voting.problems(
            k, vote_seconds=self.deadlines.vote_seconds, stop_decided=self.rollout.stop_decided
        )
        problems += self.learner.problems(top_p=self.rollout.top_p)
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _overlap_problems(self) -> list[str]:
        """What the overlapped schedule and carried-over groups cannot be combined with."""
        rollout, problems = self.rollout, []
        is_corrected = self.learner.importance.mode != "off" or self.learner.old_source == "rollout"
        if rollout.max_off_policy_steps and not is_corrected:
            problems.append(
                f"rollout.max_off_policy_steps {rollout.max_off_policy_steps} trains on tokens of older policies, and "
                "nothing corrects for them; set learner.importance.mode=truncate (or mask), or "
                "learner.old_logprobs=rollout"
            )
        if rollout.max_off_policy_steps and self.run.mode != "train":
            problems.append(f"run.mode={self.run.mode} has nothing to overlap; set rollout.max_off_policy_steps to 0")
        if rollout.carried_groups and self.voting.labels.name == "cross_view":
            problems.append(
                "voting.labels=cross_view needs both views of a prompt in one step, and rollout.carried_groups takes "
                "groups as they finish; set it to 0"
            )
        if rollout.max_off_policy_steps and self.cluster.colocate:
            problems.append(
                "cluster.colocate has samplers and learner take turns on shared GPUs, so nothing can overlap; set "
                "rollout.max_off_policy_steps to 0, or cluster.colocate=false"
            )
        return problems

    def _checkpoint_problems(self) -> list[str]:
        section = self.checkpoint
        if not section.keep_best:
            return []
        problems = []
        if self.run.mode != "train":
            problems.append(
                f"checkpoint.keep_best needs evaluations, and run.mode={self.run.mode} makes none; set it to 0"
            )
        if not (self.evaluation.data and self.evaluation.every_steps):
            problems.append(
                "checkpoint.keep_best keeps what does best in evaluation, and none is made while training: set "
                "evaluation.data and evaluation.every_steps, or keep_best to 0"
            )
        if section.best_metric not in ("eval/agreement_mean", "eval/health") and not self.report.audit:
            problems.append(
                f"checkpoint.best_metric {section.best_metric} is measured by the audit, which is off; set "
                "report.audit=true, or use eval/agreement_mean or eval/health"
            )
        return problems

    def _guard_problems(self) -> list[str]:
        actions, problems = self.guard.actions, []
        if "rollback" in actions and not self.checkpoint.keep_best:
            problems.append(
                "the guard's rollback goes back to a checkpoint that evaluations call healthy, and none is kept for "
                "that: set checkpoint.keep_best=2 and checkpoint.best_metric=eval/health, or leave rollback out"
            )
        if "raise_kl" in actions and not self.learner.kl.coefficient:
            problems.append(
                "the guard's raise_kl multiplies learner.kl.coefficient, which is 0: set one, or leave raise_kl out"
            )
        if actions - {"stop"} and self.run.mode != "train":
            problems.append(f"the guard acts on training, and this is run.mode={self.run.mode}: empty guard.on_alarm")
        return problems

    def _mode_problems(self) -> list[str]:
        mode, groups = self.run.mode, self.data.groups
        if mode == "train_only" and groups is None:
            return ["run.mode=train_only trains on stored groups: name the run that holds them in data.groups"]
        if mode != "train_only" and groups is not None:
            return [f"data.groups={groups} is read by run.mode=train_only alone; this is run.mode={mode}"]
        return []
