"""Advantage estimators by name. A new one is a pure function in `learner/algorithms/` and one entry here."""

from __future__ import annotations

from learner.algorithms.rloo import leave_one_out
from quorum.registry import Entry, Registry

ALGORITHMS: Registry = {"rloo": Entry(leave_one_out)}
"""Called as target(rewards, train_mask, options) -> advantages, all [k].

`rewards` is float64; the result is finite float64, 0 where `train_mask` is False, and all 0 where the trained
completions of a group share one reward.
"""
