"""Finished groups of an earlier incarnation, given back to the loop as if a sampler had just returned them."""

from __future__ import annotations

from typing import Any

from orchestration.group_log import GroupLogWriter
from orchestration.rollout_phase import RecoveredGroup, fetch
from quorum.errors import StorageError
from quorum.types import GroupKey, Receipt, Role, RolloutGroup, Tally

RECOVERED = "recovered"
"""Sampler id in the receipt of a group that was read from the log."""


class RecoverableLog(GroupLogWriter):
    """The group log as the driver's actor: writer, and source of recovered groups."""

    def fetch_recovered(self, key: GroupKey) -> tuple[Receipt, RolloutGroup, Tally | None]:
        """A recovered group with a receipt like its sampler's, and its tally if it was tallied.

        Three Ray returns, so the driver reads no tokens.
        """
        group, tally = self.fetch(key)
        return Receipt.of(group, sampler_id=RECOVERED, num_prefilled_tokens=0, seconds=0.0), group, tally


def recover(log: Any, branch: int, role: Role, step: int, timeout: float) -> dict[GroupKey, RecoveredGroup]:
    """References to the groups that earlier incarnations finished at or after `step`.

    Args:
        log: actor handle of a RecoverableLog.
        branch: of the run.
        role: for Role.EVAL and Role.PROBE exactly the evaluation after `step` steps.
        step: first step whose groups are wanted.
        timeout: seconds for reading the log's keys.
    """
    [keys] = fetch([log.recover.remote(branch, role, step)], timeout, "read from the durable log", StorageError)
    read = log.fetch_recovered.options(num_returns=3)
    return {key: RecoveredGroup(*read.remote(key)) for key in keys}
