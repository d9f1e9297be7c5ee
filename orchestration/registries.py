"""The plug-in registries of all stages, gathered where they may be: above the stages."""

from __future__ import annotations

from collections.abc import Mapping

from quorum.registry import Registry


def registries() -> Mapping[str, Registry]:
    """Registry by the dotted name of the configuration field that names its entries."""
    from learner.registry import ALGORITHMS
    from rollout.engines.registry import ENGINES
    from voting.equivalence import EQUIVALENCES
    from voting.extract import EXTRACTORS
    from voting.rules import VOTE_RULES

    return {
        "rollout.engine": ENGINES,
        "voting.extractor": EXTRACTORS,
        "voting.equivalence": EQUIVALENCES,
        "voting.rule": VOTE_RULES,
        "learner.algorithm": ALGORITHMS,
    }
