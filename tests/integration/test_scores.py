"""Entropies and self-certainty of finished groups, by real ranks, against transformers alone."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.integration.learner_probes import ScoringRank  # noqa: E402
from tests.integration.learner_processes import Ranks, make_config, make_model  # noqa: E402
from tests.integration.test_learner_stack import make_groups  # noqa: E402

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


def expected(model, group):
    """(entropy, KL(uniform || p)) of each completion, mean over its tokens, in float64."""
    from transformers import AutoModelForCausalLM

    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)
    found = []
    for completion in group.completions:
        prompt = group.prompt_token_ids.tolist()
        with torch.no_grad():
            logits = policy(torch.tensor([prompt + completion.token_ids.tolist()])).logits[0]
        log_p = torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)
        certainty = -log_p.mean(-1) - math.log(log_p.shape[-1])
        found.append((float(-(log_p.exp() * log_p).sum(-1).mean()), float(certainty.mean())))
    return found


@pytest.mark.parametrize(("num_ranks", "zero_stage", "together"), [(1, 0, 1), (2, 3, 1), (4, 2, 2)])
def test_scores_are_those_of_the_whole_token_distributions(model, num_ranks, zero_stage, together):
    """Of two parties one has three groups, the other two and dummy passes; of four ranks two share each row."""
    groups = [scored.group for scored in make_groups()]
    layout = {"num_ranks": num_ranks, "zero_stage": zero_stage, "sequence_parallel_size": together}
    count = num_ranks // together
    shares = [groups[rank // together :: count] for rank in range(num_ranks)]
    with Ranks(make_config(model, **layout), ScoringRank) as ranks:
        answers = ranks.all("score_directly", each=[(share,) for share in shares])
    for share, scores in zip(shares, answers, strict=True):
        for group, score in zip(share, scores, strict=True):
            wanted = expected(model, group)
            assert score.entropies == pytest.approx([entropy for entropy, _ in wanted], rel=1e-5)
            assert score.self_certainties == pytest.approx([certainty for _, certainty in wanted], rel=1e-4)
