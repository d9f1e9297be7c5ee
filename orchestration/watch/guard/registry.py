"""The guard's detectors by name, with the thresholds they ship with. docs/guard.md says why each is what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError, create_model

from configs.schema import Plugin
from orchestration.watch.guard.detectors import (
    Detector,
    DetectorOptions,
    Drift,
    DriftOptions,
    PeakLoss,
    PeakLossOptions,
    Scissors,
    ScissorsOptions,
)
from orchestration.watch.metrics import check_names, needs_reference
from quorum.errors import ConfigError
from quorum.registry import Entry, Registry

Model = TypeVar("Model", bound=DetectorOptions)


def shipped(base: type[Model], **values: Any) -> type[Model]:
    """`base` with other defaults; every field keeps its type and bounds."""
    fields: Any = {name: (base.model_fields[name].rebuild_annotation(), value) for name, value in values.items()}
    return create_model(base.__name__, __base__=base, **fields)


_FIRST: dict[str, Any] = {"baseline": "first", "window": 30, "min_history": 5}
DETECTORS: Registry = {
    # The policy against the frozen anchor, on the evaluation prompts: what sees a slow decline.
    "anchor": Entry(PeakLoss, shipped(PeakLossOptions, metric="eval/anchor_vote_share", loss=0.05, weight=1.0)),
    "anchor_majority": Entry(PeakLoss, shipped(PeakLossOptions, metric="eval/anchor_agreement", loss=0.1)),
    "anchor_scissors": Entry(
        Scissors,
        shipped(
            ScissorsOptions,
            agreement="eval/agreement_mean",
            gain=0.03,
            metric="eval/anchor_agreement",
            change=0.05,
            weight=1.0,
        ),
    ),
    "teacher_scissors": Entry(
        Scissors,
        shipped(
            ScissorsOptions,
            agreement="vote/agreement_mean",
            gain=0.05,
            metric="vote/teacher_agreement",
            change=0.1,
            smooth=10,
        ),
    ),
    # One answer for different prompts.
    "modal_answer": Entry(
        Drift, shipped(DriftOptions, metric="vote/modal_answer_share", change=0.15, persist=2, weight=1.0, **_FIRST)
    ),
    "probe_modal_answer": Entry(
        Drift,
        shipped(
            DriftOptions,
            metric="eval/modal_answer_share",
            change=0.1,
            sigmas=0.0,
            baseline="first",
            window=2,
            min_history=2,
            weight=1.0,
        ),
    ),
    "distinct_answers": Entry(
        Drift,
        shipped(DriftOptions, metric="vote/distinct_answers", direction="down", factor=2.0, persist=2, **_FIRST),
    ),
    # The learner's numbers against the run's own past.
    "entropy": Entry(Drift, shipped(DriftOptions, metric="learn/entropy_mean", factor=1.5, persist=3)),
    "entropy_scissors": Entry(
        Scissors,
        shipped(
            ScissorsOptions,
            agreement="vote/reward_mean",
            gain=0.05,
            metric="learn/entropy_mean",
            worse="up",
            change=0.4,
            smooth=15,
            min_history=50,
        ),
    ),
    "kl": Entry(Drift, shipped(DriftOptions, metric="learn/kl_mean", factor=2.0, change=0.03, persist=3)),
    "reward": Entry(Drift, shipped(DriftOptions, metric="vote/reward_mean", change=0.15, persist=3)),
    # Labels, lengths, abstentions.
    "label_flips": Entry(Drift, shipped(DriftOptions, metric="vote/label_flip_share", change=0.2, persist=3)),
    "probe_flips": Entry(
        Drift, shipped(DriftOptions, metric="eval/label_flip_share", change=0.15, sigmas=3.0, min_history=3)
    ),
    "length": Entry(
        Drift,
        shipped(DriftOptions, metric="rollout/completion_tokens_mean", direction="both", factor=1.5, persist=3),
    ),
    "abstention": Entry(Drift, shipped(DriftOptions, metric="vote/abstain_share", change=0.2, persist=3, **_FIRST)),
    # The same question, asked otherwise.
    "consistency": Entry(PeakLoss, shipped(PeakLossOptions, metric="eval/consistency_share", loss=0.15)),
    "view_agreement": Entry(PeakLoss, shipped(PeakLossOptions, metric="vote/view_agreement", loss=0.15, smooth=10)),
}
"""Each target is called with its options (`DetectorOptions`) and gives a Detector."""


def make_detectors(plugins: Sequence[Plugin]) -> Mapping[str, tuple[Detector, float]]:
    """Fresh detectors by name, each with its weight.

    Args:
        plugins: of the configuration; none: all of them, as they ship.

    Raises:
        ConfigError: unknown name, wrong options, a metric that is not registered or that needs reference answers.
    """
    made: dict[str, tuple[Detector, float]] = {}
    for plugin in plugins or tuple(Plugin(name=name) for name in DETECTORS):
        if plugin.name not in DETECTORS:
            raise ConfigError(
                f"guard.detectors: no detector is called {plugin.name!r}; there are {', '.join(DETECTORS)}"
            )
        entry = DETECTORS[plugin.name]
        try:
            options = entry.options.model_validate(plugin.options)
            assert isinstance(options, DetectorOptions)
            names = [getattr(options, field) for field in ("metric", "agreement") if hasattr(options, field)]
            check_names(names)
        except (ValidationError, ValueError) as error:
            raise ConfigError(f"guard.detectors {plugin.name}: {error}") from error
        if labelled := [name for name in names if needs_reference(name)]:
            raise ConfigError(
                f"guard.detectors {plugin.name}: {labelled[0]} needs reference answers, the guard has none"
            )
        made[plugin.name] = (entry.target(options), options.weight)
    return made
