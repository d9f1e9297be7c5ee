"""Says what is wrong with a configuration in the user's own words: dotted names, nearest right key, what was got."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from configs.schema import Plugin, RunConfig
from quorum.registry import Registry

ELSEWHERE = {
    "actor_rollout_ref": "rollout",
    "batch_size": "rollout.prompts_per_step",
    "beta": "learner.kl.coefficient",
    "clip_grad": "learner.max_grad_norm",
    "generate_max_len": "rollout.max_completion_tokens",
    "grad_clip": "learner.max_grad_norm",
    "init_kl_coef": "learner.kl.coefficient",
    "kl_coef": "learner.kl.coefficient",
    "kl_loss_coef": "learner.kl.coefficient",
    "lr": "learner.learning_rate",
    "max_completion_length": "rollout.max_completion_tokens",
    "max_new_tokens": "rollout.max_completion_tokens",
    "max_prompt_length": "data.max_prompt_tokens",
    "max_response_length": "rollout.max_completion_tokens",
    "max_steps": "run.num_steps",
    "max_token_len": "learner.max_tokens_per_micro_batch",
    "micro_batch_size": "learner.max_tokens_per_micro_batch",
    "model_name_or_path": "model.path",
    "n": "rollout.completions_per_prompt",
    "n_samples_per_prompt": "rollout.completions_per_prompt",
    "num_generations": "rollout.completions_per_prompt",
    "num_iterations": "learner.epochs_per_step",
    "output_dir": "run.dir",
    "ppo_epochs": "learner.epochs_per_step",
    "pretrain": "model.path",
    "prompt_max_len": "data.max_prompt_tokens",
    "rollout_batch_size": "rollout.prompts_per_step",
    "save_freq": "checkpoint.every_steps",
    "save_steps": "checkpoint.every_steps",
    "tensor_model_parallel_size": "rollout.tensor_parallel_size",
    "test_freq": "evaluation.every_steps",
    "total_training_steps": "run.num_steps",
    "train_batch_size": "rollout.prompts_per_step",
    "train_files": "data.train",
    "vllm_tensor_parallel_size": "rollout.tensor_parallel_size",
    "zero_stage": "learner.zero_stage",
}
"""What verl, TRL and OpenRLHF call a setting (last part of its name), and where it is here; docs/coming-from.md."""
_MAX_SHOWN = 60
"""Characters of a wrong value that an error quotes."""
_SAME_NAME = 0.8
"""Likeness of a field's name to one of another section that is meant, mistyped or not."""


def dotted(location: Iterable[str | int]) -> str:
    """`("data", "train", 0, "path")` -> `data.train.0.path`."""
    return ".".join(str(part) for part in location)


def nearest(name: str, candidates: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The candidate that a typing error most likely meant; None when nothing is close."""
    matches = difflib.get_close_matches(name, list(candidates), n=1, cutoff=cutoff)
    return matches[0] if matches else None


def field_names(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[str]:
    """Every field of the schema by dotted name, sections before their fields; list items appear as `0`."""
    for name, field in model.model_fields.items():
        yield prefix + name
        section, is_list = _section_of(field.annotation)
        if section is not None:
            yield from field_names(section, f"{prefix}{name}.{'0.' if is_list else ''}")


def section_at(location: Sequence[str | int], root: type[BaseModel] = RunConfig) -> type[BaseModel] | None:
    """The section model at a location of the configuration, or of `root`; None inside free-form options."""
    model = root
    in_list = False
    for part in location:
        if isinstance(part, int) or (in_list and str(part).isdigit()):
            in_list = False
            continue
        field = model.model_fields.get(part)
        section, in_list = _section_of(field.annotation) if field else (None, False)
        if section is None:
            return None
        model = section
    return model


def describe(
    error: ValidationError,
    *,
    prefix: tuple[str, ...] = (),
    root: type[BaseModel] | None = RunConfig,
    only: Callable[[Any], bool] = lambda detail: True,
) -> list[str]:
    """Each error of a validation as one line that names the field, what was got and what to do.

    Args:
        error: what pydantic raised.
        prefix: where the validated value stands in the configuration.
        root: the model that was validated; None when it is not known (its keys are then not listed).
        only: which of pydantic's errors are described.
    """
    lines: list[str] = []
    for detail in filter(only, error.errors(include_url=False)):
        location = (*prefix, *detail["loc"])
        name = dotted(location)
        if detail["type"] == "extra_forbidden":
            lines.append(f"{name}: unknown key{_suggest_key(location, prefix, root)}")
        elif detail["type"] == "missing":
            lines.append(f"{name}: missing{_meaning(location)}")
        elif detail["type"] == "value_error":
            text = detail["msg"].removeprefix("Value error, ")
            lines.extend(f"{name}: {line}" if name else line for line in text.splitlines())
        elif not _is_echo(detail, error):
            lines.append(f"{name}: {_lower_first(detail['msg'])}, got {_shown(detail['input'])}")
    return lines


def check_plugin(plugin: Plugin, registry: Registry, location: str) -> list[str]:
    """Problems of a plug-in's name and options against its registry; empty when it can be used."""
    entry = registry.get(plugin.name)
    if entry is None:
        return [f"{location}.name: {unknown_name(plugin.name, registry)}"]
    try:
        entry.options.model_validate(plugin.options)
    except ValidationError as error:
        return describe(error, prefix=(*location.split("."), "options"), root=entry.options)
    return []


def unknown_name(name: str, registry: Mapping[str, object]) -> str:
    """What to say of a name that a registry does not hold."""
    guess = nearest(name, registry)
    hint = f"; did you mean {guess!r}?" if guess else ""
    return f"no plug-in is called {name!r}{hint} (known: {', '.join(sorted(registry))})"


def _section_of(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """(section model, whether it stands in a list) of a field's annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for argument in typing.get_args(annotation):
        section, _ = _section_of(argument)
        if section is not None:
            return section, typing.get_origin(annotation) in (tuple, list)
    return None, False


def _suggest_key(location: Sequence[str | int], prefix: tuple[str, ...], root: type[BaseModel] | None) -> str:
    parent, key = location[:-1], str(location[-1])
    inside = location[len(prefix) : -1]
    siblings = section_at(inside, root) if root is not None else None
    own = list(siblings.model_fields) if siblings else []
    close = ELSEWHERE.get(key) if root is RunConfig else None
    if close is None and (guess := nearest(key, own)):
        close = dotted((*parent, guess))
    if close is None and root is RunConfig:
        everywhere = list(field_names())
        leaves = {name.rpartition(".")[2]: name for name in sorted(everywhere, key=lambda name: -name.count("."))}
        same = nearest(key, leaves, cutoff=_SAME_NAME)
        others = [name for name in everywhere if name != dotted(parent)]
        close = leaves[same] if same else nearest(dotted(location), others)
    if close:
        return f"; did you mean {close}?"
    return f" (known: {', '.join(sorted(own))})" if own else " (it has no options)"


def _meaning(location: Sequence[str | int]) -> str:
    section = section_at(location[:-1])
    field = section.model_fields.get(str(location[-1])) if section else None
    return f" ({field.description.rstrip('.')})" if field and field.description else ""


def _is_echo(detail: Any, error: ValidationError) -> bool:
    """Whether a list only counts as too short because its items were wrong, which is reported by itself."""
    location = detail["loc"]
    return detail["type"] == "too_short" and any(
        len(other["loc"]) > len(location) and other["loc"][: len(location)] == location for other in error.errors()
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
