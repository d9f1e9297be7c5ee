"""Everything that can be known to be wrong before anything starts, reported at once."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from configs.schema import DataSource, ModelSection, RunConfig
from configs.secrets import refuse_secrets
from data.model_files import ModelFacts, check_model_dir, load_tokenizer
from data.prompts import PromptSet, load_prompts
from data.references import Dispenser
from orchestration.labels import Teacher, check_pairs, make_dispenser, needs_pairs, needs_scores, teacher_of
from orchestration.machine import ask_cluster
from orchestration.plan import ResourcePlan, make_plan
from orchestration.prompt_pasts import load_base_agreements
from orchestration.stored_groups import GroupSource, find_groups
from orchestration.watch.guard.registry import make_detectors
from quorum.errors import ConfigError, DataError, QuorumError, ResourceError
from voting.resolve import check as check_voting
from voting.stopping import stop_problems

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Preflight:
    """What the checks produced on their way."""

    plan: ResourcePlan
    model: ModelFacts
    train: PromptSet
    evaluation: PromptSet | None
    dispenser: Dispenser | None = None
    """Of labels that the configuration reveals."""
    teacher: Teacher | None = None
    source: GroupSource | None = None
    """Of the groups of a run without samplers."""
    base_agreements: Mapping[str, float] = field(default_factory=dict)
    """By prompt id, of the table that weighs prompts."""

    @property
    def prompts_hash(self) -> str:
        """What a resumed run must find again."""
        return self.train.content_hash() if self.source is None else self.source.content_hash


def preflight(config: RunConfig, *, new_run: bool, with_learner: bool = True) -> Preflight:
    """Check configuration, model, data and resources together.

    Args:
        config: of the run.
        new_run: whether its directory must not exist yet.
        with_learner: False for an evaluation, which has samplers and no learner whatever `run.mode` says.

    Raises:
        ConfigError, DataError, ResourceError: the first kind that was found, in this order, naming all problems.
    """
    problems: list[QuorumError] = []
    mode = config.run.mode if with_learner else "rollout_only"

    def attempt(check: Callable[[], T]) -> T | None:
        try:
            return check()
        except QuorumError as exc:
            problems.append(exc)
            return None

    if new_run:
        attempt(lambda: _check_run_dir(config))
    attempt(lambda: refuse_secrets(config.model_dump(mode="json")))
    attempt(lambda: _check_port(config))
    attempt(lambda: _check_voting(config))
    attempt(lambda: make_detectors(config.guard.detectors))
    teacher = attempt(lambda: _teacher(config)) if with_learner else None
    plan = attempt(lambda: _plan(config, mode, teacher.num_samplers if teacher else 0))
    attempt(lambda: _check_engine(config, _sampler_devices(plan)))
    model = attempt(lambda: check_model_dir(config.model))
    if model is not None:
        attempt(lambda: _check_model(config, model))
    tokenizer = attempt(lambda: load_tokenizer(config.model)) if model is not None else None
    train, evaluation, dispenser, source = PromptSet((), 0), None, None, None
    base: Mapping[str, float] = {}
    if tokenizer is not None:
        if with_learner:
            train, source = attempt(lambda: _training_prompts(config, tokenizer)) or (train, None)
            teacher = attempt(lambda: _with_prompts(config, teacher))
        if train.prompts:
            dispenser = attempt(lambda: make_dispenser(config, train.prompts))
            base = attempt(lambda: load_base_agreements(config, train.prompts)) or {}
        if config.evaluation.data and mode != "train_only":
            evaluation = attempt(lambda: _load(config, config.evaluation.data, tokenizer))
    if problems:
        raise _combined(problems)
    assert plan is not None and model is not None
    return Preflight(plan, model, train, evaluation, dispenser, teacher, source, base)


def _combined(problems: list[QuorumError]) -> QuorumError:
    """One error of the most basic kind, with every problem in it."""
    for kind in (ConfigError, DataError, ResourceError):
        if any(isinstance(problem, kind) for problem in problems):
            break
    if len(problems) == 1:
        return problems[0]
    lines: list[str] = []
    for problem in problems:
        lines += problem.problems if isinstance(problem, ConfigError) else [str(problem)]
    if kind is ConfigError:
        return ConfigError(lines)
    return kind(f"{len(lines)} problems:\n" + "\n".join(f"  - {line}" for line in lines))


def _check_run_dir(config: RunConfig) -> None:
    if "://" in config.run.dir:
        raise ConfigError(
            f"run.dir is {config.run.dir}: a run needs locks and renames, which object stores lack; give a path, on a "
            "cluster one that is mounted on all nodes"
        )
    path = config.run_path.absolute()
    if path.exists():
        raise ConfigError(
            f"run directory {path} exists: choose another with run.dir=..., "
            f"or continue that run with `quorum train --resume {config.run.dir}`"
        )


def _plan(config: RunConfig, mode: str, num_teachers: int) -> ResourcePlan:
    address = config.cluster.address
    cluster = None if address == "local" else ask_cluster(address)[0]
    return make_plan(
        config,
        with_learner=mode != "rollout_only",
        with_samplers=mode != "train_only",
        cluster=cluster,
        num_teachers=num_teachers,
    )


def _teacher(config: RunConfig) -> Teacher | None:
    """The teacher, if any; refuses who votes, or by what, where the mode has no such stage."""
    check_pairs(config)
    teacher, mode, labels = teacher_of(config), config.run.mode, config.voting.labels.name
    if mode == "train_only" and (teacher is not None or needs_pairs(config)):
        raise ConfigError(
            f"voting.labels={labels} asks others that answer too, and run.mode=train_only has no samplers to ask; use "
            "voting.labels=vote, table or ground_truth"
        )
    if mode == "rollout_only" and teacher is not None and teacher.is_average:
        raise ConfigError(
            f"voting.labels={labels} asks the policy's moving average, which run.mode=rollout_only has no learner to "
            "keep; use voting.labels=teacher or vote"
        )
    if mode == "rollout_only" and needs_scores(config):
        raise ConfigError(
            f"voting.rule={config.voting.rule.name} or voting.train.entropy_iqr votes by scores that the learner "
            "makes, and run.mode=rollout_only has none; leave them out, and use them when training"
        )
    return teacher


def _training_prompts(config: RunConfig, tokenizer: Any) -> tuple[PromptSet, GroupSource | None]:
    """Prompts of the data, or those of the stored groups that a run without samplers trains on."""
    if config.run.mode == "train_only":
        source = find_groups(config, tokenizer)
        return source.prompts, source
    train = _load(config, config.data.train, tokenizer)
    if needs_pairs(config):
        train.order(config.run.seed, config.data.shuffle, in_pairs=True)
    return train, None


def _load(config: RunConfig, sources: Sequence[DataSource], tokenizer: Any) -> PromptSet:
    return load_prompts(sources, config.data, tokenizer, max_prompt_tokens=config.data.max_prompt_tokens)


def _with_prompts(config: RunConfig, teacher: Teacher | None) -> Teacher | None:
    """A teacher of another model reads the prompts with its own tokenizer."""
    if teacher is None or teacher.model == config.model.path:
        return teacher
    section = ModelSection(path=teacher.model, trust_remote_code=config.model.trust_remote_code)
    _check_model(config.model_copy(update={"model": section}), check_model_dir(section))
    prompts = _load(config, config.data.train, load_tokenizer(section))
    return replace(teacher, prompts={prompt.prompt_id: prompt for prompt in prompts.prompts})


def _sampler_devices(plan: ResourcePlan | None) -> list[str | None]:
    """Of all kinds of samplers; None where the plan could not be made."""
    if plan is None:
        return [None]
    return list(dict.fromkeys(sampler.device for sampler in plan.samplers)) or [plan.device]


def _check_engine(config: RunConfig, devices: Sequence[str | None]) -> None:
    """Engine arguments are checked only where there are some: the check imports vLLM."""
    if config.rollout.engine.name != "vllm" or not config.rollout.engine.options:
        return
    from rollout.engines.vllm_options import validate_engine_options

    options, length = config.rollout.engine.options, config.max_model_len
    problems: list[str] = []
    for device in devices:
        problems += validate_engine_options(options, device=device, max_model_len=length)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def _check_voting(config: RunConfig) -> None:
    problems = check_voting(config.voting)
    if config.rollout.stop_decided:
        problems += stop_problems(config.voting)
    if needs_pairs(config):
        if config.rollout.prompts_per_step % 2:
            problems.append(
                f"rollout.prompts_per_step is {config.rollout.prompts_per_step}: voting.labels=cross_view takes "
                "prompts in pairs, so it must be even"
            )
        if config.voting.batch.max_rounds > 1:
            problems.append(
                "voting.batch.max_rounds: voting.labels=cross_view draws pairs, and once per step; set it to 1"
            )
    if problems:
        raise ConfigError(problems)


def _check_port(config: RunConfig) -> None:
    if not config.sync.port or config.cluster.address != "local":
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("127.0.0.1", config.sync.port))
        except OSError as exc:
            raise ResourceError(
                f"sync.port {config.sync.port} cannot be used on 127.0.0.1 ({exc.strerror}); "
                "choose another, or 0 for any free one"
            ) from exc


def _workers_per_sampler(config: RunConfig) -> dict[str, int]:
    """Tensor-parallel sizes by the setting they come from."""
    sizes = {"rollout.tensor_parallel_size": config.rollout.tensor_parallel_size}
    for index, kind in enumerate(config.rollout.fleet):
        sizes[f"rollout.fleet.{index}.tensor_parallel_size"] = kind.tensor_parallel_size
    return sizes


def _check_model(config: RunConfig, model: ModelFacts) -> None:
    sizes = {
        **_workers_per_sampler(config),
        "learner.sequence_parallel_size": config.learner.sequence_parallel_size,
    }
    for name, size in sizes.items():
        if model.num_attention_heads is not None and model.num_attention_heads % size:
            raise ConfigError(
                f"{name} {size} does not divide the model's {model.num_attention_heads} attention heads "
                f"({config.model.path})"
            )
    if model.max_positions is None or config.max_model_len <= model.max_positions:
        return
    prompt, completion = config.data.max_prompt_tokens, config.rollout.max_completion_tokens
    if config.rollout.max_model_len is not None:
        what = f"rollout.max_model_len {config.rollout.max_model_len:,} exceeds"
    else:
        what = f"prompt {prompt:,} + completion {completion:,} tokens exceed"
    room = model.max_positions - prompt
    fix = f"set rollout.max_completion_tokens to at most {room:,}" if room > 0 else "lower data.max_prompt_tokens"
    raise ConfigError(f"{what} the model's {model.max_positions:,} positions ({config.model.path}): {fix}")
