"""Finished groups of an earlier incarnation, given back to the loop as if a sampler had just returned them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from orchestration.group_log import GroupLogWriter
from quorum.types import GroupKey, Receipt, Role, RolloutGroup

RECOVERED = "recovered"
"""Sampler id in the receipt of a group that was read from the log."""


class RecoverableLog(GroupLogWriter):
    """The group log as the driver's actor: writer, and source of recovered groups."""

    def fetch_with_receipt(self, key: GroupKey) -> tuple[Receipt, RolloutGroup]:
        """A recovered group with a receipt like its sampler's; two Ray returns, so the driver reads no tokens."""
        group = self.fetch(key)
        return receipt_of(group), group


def recover(log: Any, branch: int, role: Role, step: int, timeout: float) -> dict[GroupKey, Any]:
    """(receipt, group) references of the groups that earlier incarnations finished at or after `step`.

    Args:
        log: actor handle of a RecoverableLog.
        branch: of the run.
        role: for Role.EVAL exactly the evaluation after `step` steps.
        step: first step whose groups are wanted.
        timeout: seconds for reading the log's keys.
    """
    import ray

    keys = ray.get(log.recover.remote(branch, role, step), timeout=timeout)
    fetch = log.fetch_with_receipt.options(num_returns=2)
    return {key: tuple(fetch.remote(key)) for key in keys}


def receipt_of(group: RolloutGroup) -> Receipt:
    """The receipt of a group that costs nothing now: no tokens prefilled, no seconds spent."""
    versions = {span.version for completion in group.completions for span in completion.spans}
    return Receipt(
        group_id=group.group_id,
        sampler_id=RECOVERED,
        finish_counts=dict(Counter(completion.finish_reason for completion in group.completions)),
        num_tokens=sum(len(completion.token_ids) for completion in group.completions),
        num_prompt_tokens=len(group.prompt_token_ids),
        num_prefilled_tokens=0,
        versions=tuple(sorted(versions)),
        seconds=0.0,
        content_hash=group.content_hash(),
    )
