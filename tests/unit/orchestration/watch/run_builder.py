"""Builds small but real run directories: groups, metrics and configuration as a run leaves them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from configs.load import dump_config
from configs.schema import RunConfig
from data.prompts import source_identities
from orchestration.group_log import GroupLogWriter
from orchestration.group_table import StepRecord
from orchestration.watch.evaluate import PromptScore
from quorum.types import (
    EndState,
    Outcome,
    Resolution,
    Role,
    RolloutGroup,
    ScoredGroup,
    Tally,
    prompt_id_of,
)
from tests.builders import make_completion

Answers = Sequence[str | None]


def make_run(path: Path, references: Sequence[str | None] = ("7", "8", "9"), **changes: object) -> RunConfig:
    """A run directory with config.yaml and a data file whose row i has reference `references[i]`."""
    path.mkdir(parents=True, exist_ok=True)
    data = path.parent / "sums.jsonl"
    rows = [
        {"prompt": f"question {i}?", "data_source": "sums", **({} if answer is None else {"answer": answer})}
        for i, answer in enumerate(references)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = RunConfig.model_validate(
        {
            "run": {"dir": str(path), "num_steps": 4},
            "model": {"path": "unused"},
            "data": {"train": [{"path": str(data)}]},
            "evaluation": {"data": [{"path": str(data)}]},
            "voting": {"extractor": {"name": "last_number"}},
            **changes,
        }
    )
    (path / "config.yaml").write_text(dump_config(config))
    return config


def prompt_id(config: RunConfig, index: int) -> str:
    """Id of row `index` of the run's data file."""
    return prompt_id_of(source_identities(config.data.train)[0], str(index))


def make_group(
    config: RunConfig, index: int, answers: Answers, role: Role = Role.TRAIN, source: str = "sums"
) -> RolloutGroup:
    """A group on row `index` whose completion texts state `answers`."""
    texts = ["no idea" if answer is None else f"I say {answer}" for answer in answers]
    return RolloutGroup(
        group_id=index,
        prompt_id=prompt_id(config, index),
        branch=0,
        role=role,
        data_source=source,
        prompt_token_ids=np.array([1, 2], dtype=np.int32),
        prompt_text=f"question {index}?",
        completions=tuple(make_completion(i, [5] * (i + 1), text=text) for i, text in enumerate(texts)),
    )


def make_tally(group_id: int, answers: Answers) -> Tally:
    """Exact clusters of `answers`."""
    sizes = Counter(answer for answer in answers if answer is not None)
    names = tuple(sizes)
    return Tally(
        group_id=group_id,
        answers=tuple(answers),
        outcomes=tuple(Outcome.UNPARSED if answer is None else Outcome.ANSWERED for answer in answers),
        cluster=tuple(-1 if answer is None else names.index(answer) for answer in answers),
        sizes=tuple(sizes.values()),
        representatives=names,
    )


def make_score(
    correct: Sequence[bool],
    *,
    majority: bool = False,
    ratio: float = 1.0,
    label: bool | None = None,
    rewards: Sequence[float] | None = None,
    source: str = "a",
    group_id: int = 0,
) -> PromptScore:
    """A score of one group; `label` says whether its label is right, None that it has none."""
    return PromptScore(
        group_id=group_id,
        prompt_id=f"{source}{group_id}",
        data_source=source,
        reference="7",
        correct=tuple(correct),
        majority_answer="7" if majority else "3",
        majority_correct=majority,
        majority_ratio=ratio,
        label=None if label is None else "7" if label else "3",
        label_correct=bool(label),
        rewards=None if rewards is None else tuple(rewards),
        num_abstained=0,
        num_tokens=10,
    )


def close_step(
    path: Path, config: RunConfig, step: int, answers: Mapping[int, Answers], role: Role, incarnation: int = 0
) -> Path:
    """Close a step whose group on row i answered `answers[i]`; training groups are voted on and rewarded."""
    records, objects = [], []
    for index, given in answers.items():
        group, tally = make_group(config, index, given, role), make_tally(index, given)
        if role is Role.EVAL:
            records.append(StepRecord(group.key, tally))
            objects.append(group)
            continue
        size, label = max(zip(tally.sizes, tally.representatives, strict=True), default=(0, None))
        share = size / len(given)
        end = EndState.TRAINED if label is not None else EndState.NO_LABEL
        vote = Resolution(
            group_id=index,
            label_cluster=-1 if label is None else tally.representatives.index(label),
            pseudo_label=label,
            provenance="majority",
            agreement=share,
            margin=share,
            end_state=None if label is not None else end,
        )
        records.append(StepRecord(group.key, tally, vote, end))
        scored = ScoredGroup(
            group=group,
            tally=tally,
            pseudo_label=label,
            provenance="majority",
            agreement=share,
            margin=share,
            rewards=np.array([answer == label for answer in given], dtype=np.float32),
            train_mask=np.ones(len(given), dtype=bool),
            kl_mask=True,
        )
        objects.append(scored if label is not None else group)
    return Path(GroupLogWriter(str(path), incarnation).close_step(step, 0, role, records, *objects))
