"""Another run's stored groups as the groups of a run without samplers (`run.mode: train_only`).

They come to the loop the way groups of an earlier incarnation do: read when their turn comes, by an actor, so that the
driver sees no tokens. Their votes are not taken over: they are tallied again. Reads no reference answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.schema import RunConfig
from data.prompts import PromptSet
from data.render import tokenize
from orchestration.group_table import closed_files, group_at, read_file
from orchestration.recovery import RECOVERED
from orchestration.rollout_phase import RecoveredGroup
from orchestration.run_dir import read_config
from orchestration.stored_rollouts import extractors_by_prompt
from quorum.errors import ConfigError, DataError, StageError
from quorum.types import GroupKey, Prompt, Receipt, Role, RolloutGroup

_COLUMNS = ("prompt_id", "data_source", "prompt_text", "prompt_token_ids")


@dataclass(frozen=True, slots=True)
class GroupSource:
    """Where the groups of a run without samplers lie. Group i of the run is the i-th stored one."""

    path: Path
    """The run that made them."""
    places: tuple[tuple[str, int], ...]
    """(file, row) of every group, in step order."""
    prompts: PromptSet
    """What each group answers, in the same order: a prompt that came twice stands there twice."""
    content_hash: str
    """Of the first step's prompts: a run that has gone on since is still the same source."""


def find_groups(config: RunConfig, tokenizer: Any) -> GroupSource:
    """The groups that `data.groups` names, checked to be of this configuration's model and sampling.

    Raises:
        DataError: nothing is there, a file cannot be read, or the tokens are another tokenizer's.
        ConfigError: they are too few for run.num_steps, or were drawn at another temperature.
    """
    path = _folder(config.data.groups or "")
    extractors = extractors_by_prompt(config)
    places: list[tuple[str, int]] = []
    prompts: list[Prompt] = []
    for step, file in sorted(closed_files(path).items()):
        if file.role is Role.TRAIN:
            for row, prompt in enumerate(_prompts(file.path, extractors)):
                places.append((str(file.path.absolute()), row))
                prompts.append(prompt)
        assert step == file.step
    if not places:
        raise DataError(f"data.groups={config.data.groups}: {path} holds no closed training step")
    per_step = config.rollout.prompts_per_step
    if len(places) < config.run.num_steps * per_step:
        raise ConfigError(
            f"data.groups={config.data.groups} holds {len(places):,} groups: {len(places) // per_step} steps of "
            f"rollout.prompts_per_step={per_step}, fewer than run.num_steps={config.run.num_steps}; lower one of them"
        )
    _check_origin(config, path, prompts[0], tokenizer)
    first = PromptSet(tuple(prompts[:per_step]))
    return GroupSource(path, tuple(places), PromptSet(tuple(prompts)), first.content_hash())


def _folder(name: str) -> Path:
    for candidate in (Path(name), Path("runs") / name):
        if (candidate / "groups").is_dir():
            return candidate.absolute()
    raise DataError(f"data.groups={name}: no run is there (a directory with groups/, or a name under runs/)")


def _prompts(path: Path, extractors: Mapping[str, str]) -> Iterator[Prompt]:
    try:
        rows = pq.ParquetFile(path).read(columns=list(_COLUMNS)).to_pylist()
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DataError(f"{path} cannot be read as a group file: {error}") from error
    for row in rows:
        yield Prompt(
            prompt_id=row["prompt_id"],
            data_source=row["data_source"],
            token_ids=np.asarray(row["prompt_token_ids"], dtype=np.int32),
            text=row["prompt_text"],
            extractor=extractors.get(row["prompt_id"]),
        )


def _check_origin(config: RunConfig, path: Path, prompt: Prompt, tokenizer: Any) -> None:
    if (path / "config.yaml").is_file():
        drawn, learned = read_config(path).rollout, config.rollout
        for name in ("temperature", "top_p", "max_completion_tokens"):
            held, wanted = getattr(drawn, name), getattr(learned, name)
            if held != wanted:
                raise ConfigError(
                    f"the groups of {path} were drawn with rollout.{name} {held:g}, and here it is {wanted:g}: the "
                    f"learner would take them for another distribution's; set rollout.{name}={held:g}"
                )
    [ids] = tokenize([prompt.text], tokenizer, config.data)
    if not np.array_equal(ids, prompt.token_ids):
        raise DataError(
            f"the tokens in {path} are not those of model {config.model.path}: its tokenizer reads the first stored "
            "prompt differently; set model.path to the model that drew the groups, or one with its tokenizer"
        )


class StoredGroupReader:
    """Actor that reads groups as they are asked for; neighbours share one reading of their file."""

    def __init__(self) -> None:
        self._last: tuple[str, pa.Table] | None = None

    def fetch(self, key: GroupKey, path: str, row: int) -> tuple[Receipt, RolloutGroup, None]:
        """A stored group under its number in this run, its receipt, and no tally: it is to be voted on again.

        Raises:
            DataError: the file cannot be read.
        """
        if self._last is None or self._last[0] != path:
            self._last = (path, read_file(Path(path)))
        held = group_at(self._last[1], row)
        group = replace(held, group_id=key.group_id, branch=key.branch, role=key.role)
        return Receipt.of(group, sampler_id=RECOVERED, num_prefilled_tokens=0, seconds=0.0), group, None


class StoredGroups(Mapping[GroupKey, RecoveredGroup]):
    """Every training group of a run without samplers, read from its source when it is asked for."""

    def __init__(self, source: GroupSource, branch: int, reader: Any) -> None:
        """Args: reader: actor handle of a StoredGroupReader."""
        self._source, self._branch = source, branch
        self._fetch = reader.fetch.options(num_returns=3)

    def __getitem__(self, key: GroupKey) -> RecoveredGroup:
        """References to a group.

        Raises:
            KeyError: not a training group of this branch.
            StageError: its number is beyond the last stored group.
        """
        if key.role is not Role.TRAIN or key.branch != self._branch:
            raise KeyError(key)
        if key.group_id >= len(self):
            raise StageError(
                f"the {len(self):,} stored groups of {self._source.path} are used up: voting.batch.max_rounds draws "
                "further ones for those it drops; lower run.num_steps or set voting.batch.max_rounds=1"
            )
        return RecoveredGroup(*self._fetch.remote(key, *self._source.places[key.group_id]))

    def __contains__(self, key: object) -> bool:
        return isinstance(key, GroupKey) and key.role is Role.TRAIN and key.branch == self._branch

    def __iter__(self) -> Iterator[GroupKey]:
        return (GroupKey(self._branch, Role.TRAIN, number) for number in range(len(self)))

    def __len__(self) -> int:
        return len(self._source.places)
