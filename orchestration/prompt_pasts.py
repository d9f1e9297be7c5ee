"""What is known of prompts beyond a step's votes, as `voting.resolve` takes it: their labels so far, and a table's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from configs.schema import RunConfig, VotingSection
from data.references import load_agreements
from orchestration.watch.label_history import LabelHistory
from quorum.errors import DataError
from quorum.types import Prompt
from voting.context import PromptPast


def label_memory(section: VotingSection) -> int:
    """Visits of each prompt that a run remembers besides its last label; 0 where nothing asks for them."""
    return 0 if section.prompts.flips is None else section.prompts.flips.memory


def load_base_agreements(config: RunConfig, prompts: Sequence[Prompt] | None = None) -> Mapping[str, float]:
    """Agreement by prompt id in the table that `voting.prompts.table` names; empty where it names none.

    Args:
        config: of the run.
        prompts: those to train on; None does not ask whether the table knows any.

    Raises:
        DataError: it cannot be read, or knows no training prompt.
    """
    path = config.voting.prompts.table
    if path is None:
        return {}
    agreements = load_agreements(path)
    if prompts is not None and not any(prompt.prompt_id in agreements for prompt in prompts):
        raise DataError(
            f"voting.prompts.table={path} has no training prompt; make it with `quorum label` from the same file"
        )
    return agreements


def pasts_of(
    prompt_ids: Sequence[str], section: VotingSection, history: LabelHistory, base: Mapping[str, float]
) -> tuple[PromptPast, ...]:
    """[P] what is known of each prompt; empty where the vote asks for nothing.

    Args:
        prompt_ids: [P]
        section: whether anything is asked for.
        history: labels so far.
        base: as `load_base_agreements` has it.
    """
    if section.prompts.flips is None and section.prompts.table is None:
        return ()
    return tuple(replace(history.past(one), base_agreement=base.get(one)) for one in prompt_ids)
