"""The objective through real DeepSpeed ranks: against a plain float64 learner, across failures and restarts."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")
pytest.importorskip("transformers")

from quorum.errors import NonFiniteLoss  # noqa: E402
from tests.builders import make_completion, make_group, make_prompt, make_scored  # noqa: E402
from tests.integration.learner_probes import BadGradientRank  # noqa: E402
from tests.integration.learner_processes import Ranks, make_batch, make_config, make_model  # noqa: E402
from tests.integration.plain_learner import PlainLearner  # noqa: E402

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

LIMIT = 10
CLOSE = {"clip_low": 0.02, "clip_high": 0.03, "dual_clip": 1.2}
CONFIGURATIONS = {
    "grpo, k3 in the loss, sequence mean": {
        "algorithm": "grpo",
        "kl": {"coefficient": 0.5, "place": "loss"},
        "aggregation": "sequence_mean",
    },
    "ppo with a critic": {
        "algorithm": {"name": "ppo", "options": {"discount": 0.9, "trace": 0.8}},
        "kl": {"coefficient": 0.1},
        "critic": {"learning_rate": 1e-3, "clip": 0.02},
        "updates_per_step": 4,
        "epochs_per_step": 2,
        "old_logprobs": "recompute",
    },
    "reinforce_pp, k2 in the reward": {
        "algorithm": {"name": "reinforce_pp", "options": {"discount": 0.9}},
        "kl": {"coefficient": 0.5, "estimator": "k2"},
    },
    "gspo, 8 updates, the samplers' old ones": {
        "loss": {"name": "gspo", "options": {"clip_low": 0.05, "clip_high": 0.05}},
        "updates_per_step": 8,
        "epochs_per_step": 2,
    },
    "gspo, 8 updates, old ones recomputed": {
        "loss": {"name": "gspo", "options": {"clip_low": 0.005, "clip_high": 0.005}},
        "updates_per_step": 8,
        "epochs_per_step": 4,
        "old_logprobs": "recompute",
    },
    "dr_grpo, constant length, dual clip": {
        "algorithm": "dr_grpo",
        "aggregation": "sequence_constant",
        "loss": {"name": "ppo_clip", "options": CLOSE},
        "updates_per_step": 2,
    },
    "truncated importance": {
        "importance": {"mode": "truncate", "high": 1.05},
        "updates_per_step": 2,
        "old_logprobs": "recompute",
    },
    "an entropy bonus": {"entropy_coefficient": 0.5, "algorithm": "reinforce", "loss": "policy_gradient"},
    "kl_cov": {
        "covariance": {"mode": "kl", "share": 0.1},
        "algorithm": "reinforce_pp_baseline",
        "old_logprobs": "rollout",
        "updates_per_step": 2,
    },
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The models are too small for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


def make_groups(seed: int = 0, num_groups: int = 4, k: int = 3, reward: float | None = None):
    """Completions of 1 to 8 tokens, near uniform at sampling as the random model is; one is untrained, one group has
    no KL."""
    rng, groups = np.random.default_rng(seed), []
    for group_id in range(num_groups):
        completions = []
        for index in range(k):
            tokens = rng.integers(3, 60, int(rng.integers(1, 9))).tolist()
            logprobs = -np.log(64) + 0.15 * rng.normal(size=len(tokens))
            completions.append(make_completion(index, tokens, logprobs=logprobs.tolist()))
        prompt = make_prompt(group_id, rng.integers(3, 60, int(rng.integers(2, 6))).tolist())
        rewards = [reward] * k if reward is not None else [1.0, 0.0, *rng.normal(size=k - 2)]
        mask = [not (group_id == 1 and index == 0) for index in range(k)]
        group = make_group(completions, group_id=group_id, prompt=prompt)
        groups.append(make_scored(group, rewards, train_mask=mask, kl_mask=group_id != 2))
    return groups


def config_for(model, **learner):
    made = make_config(model, **{"learning_rate": 1e-3, "max_grad_norm": 0.5, **learner})
    made = made.model_copy(update={"rollout": made.rollout.model_copy(update={"max_completion_tokens": LIMIT})})
    assert made.learner.problems(top_p=1.0) == []
    return made


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_real_ranks_agree_with_a_plain_learner_over_two_steps(model, tmp_path, name):
    """Losses, gradient norms and weights, with 1 rank and large micro-batches and with 2 ranks and small ones."""
    config = config_for(model, **CONFIGURATIONS[name])
    plain = PlainLearner(model, config.learner, LIMIT)
    before = plain.weights().clone()
    wanted = [plain.step(make_groups(seed)) for seed in range(2)]
    for num_ranks, zero_stage, max_tokens in ((1, 0, 10_000), (2, 2, 20)):
        config = config_for(model, num_ranks=num_ranks, zero_stage=zero_stage, **CONFIGURATIONS[name])
        with Ranks(config) as ranks:
            sums = [ranks.step(make_batch(make_groups(seed), seed), max_tokens) for seed in range(2)]
            weights = ranks.weights(tmp_path / f"model-{num_ranks}")
        for found, expected in zip(sums, wanted, strict=True):
            assert found.num_updates == config.learner.updates_per_step
            assert found.loss == pytest.approx(expected.loss, rel=1e-4, abs=1e-6)
            assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)
            assert found.mean("value_loss") == pytest.approx(expected.value_loss, rel=1e-4)
        assert sums[-1].sums["clipped"] > 0 or not config.learner.loss.options, "the bounds are not reached"
        assert sums[-1].sums["value_clipped"] > 0 or name != "ppo with a critic"
        assert float((weights - plain.weights()).norm() / (plain.weights() - before).norm()) <= 1e-3


def train(config, batches, directory):
    """(sums of each step, weights after them)"""
    with Ranks(config) as ranks:
        return [ranks.step(batch) for batch in batches], ranks.weights(directory)


@pytest.mark.parametrize("algorithm", ["rloo", "grpo", "dr_grpo"])
def test_groups_that_agree_move_no_weight_under_relative_algorithms(model, tmp_path, algorithm):
    """0.1 three times: their sum is not three times 0.1. At stage 2, on two ranks."""
    config = config_for(model, algorithm=algorithm, weight_decay=0.0)
    with Ranks(config) as ranks:
        before = ranks.weights(tmp_path / "before")
        sums = ranks.step(make_batch(make_groups(reward=0.1)))
        assert sums.grad_norm == sums.loss == 0.0
        assert torch.equal(before, ranks.weights(tmp_path / "after"))


INFINITE = [np.inf, 0.0]
"""The loss is not finite."""
HUGE = [1.6e38, -1.6e38]
"""The loss is 0 with advantages of 3.2e38, which float32 still holds; the gradient is not finite."""


def bad_batch(rewards, group_id=77):
    return make_batch([make_scored(make_group([[5, 6], [7, 8]], group_id=group_id), rewards)])


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_skipped_update_leaves_weights_and_optimizer_as_they_were_on_all_ranks(model, tmp_path, zero_stage):
    """Bit for bit: the next step equals one without it. So does the schedule, which counts updates that were made."""
    config = config_for(model, zero_stage=zero_stage, non_finite="skip", warmup_steps=4)
    good = [make_batch(make_groups(seed), seed) for seed in range(2)]
    _, wanted = train(config, good, tmp_path / "wanted")
    sums, found = train(config, [good[0], bad_batch(INFINITE), bad_batch(HUGE), good[1]], tmp_path / "found")
    assert [(s.num_updates, s.num_skipped) for s in sums] == [(1, 0), (0, 1), (0, 1), (1, 0)]
    assert torch.equal(wanted, found)


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_with_a_critic_a_skipped_update_leaves_both_models_as_they_were(model, tmp_path, zero_stage):
    settings = {"algorithm": "ppo", "critic": {"learning_rate": 1e-3}, "updates_per_step": 2}
    config = config_for(model, zero_stage=zero_stage, non_finite="skip", **settings)
    good = [make_batch(make_groups(seed), seed) for seed in range(2)]
    expected, wanted = train(config, good, tmp_path / "wanted")
    sums, found = train(config, [good[0], bad_batch(INFINITE), good[1]], tmp_path / "found")
    assert (sums[1].num_updates, sums[1].num_skipped) == (0, 1)
    assert repr(sums[2]) == repr(expected[1])
    assert torch.equal(wanted, found)


def test_where_only_the_policys_gradient_is_bad_the_critic_is_not_stepped_either(model, tmp_path):
    settings = {"algorithm": "ppo", "critic": {"learning_rate": 1e-3}}
    config = config_for(model, non_finite="skip", **settings)
    first, second, third = [make_batch(make_groups(seed), seed) for seed in range(3)]
    expected, wanted = train(config, [first, third], tmp_path / "wanted")
    with Ranks(config, BadGradientRank) as ranks:
        ranks.step(first)
        ranks.all("spoil", True)
        skipped = ranks.step(second)
        ranks.all("spoil", False)
        found = ranks.step(third)
        weights = ranks.weights(tmp_path / "found")
    assert (skipped.num_updates, skipped.num_skipped) == (0, 1)
    assert repr(found) == repr(expected[1])
    assert torch.equal(wanted, weights)


def test_within_a_step_only_the_update_that_is_not_finite_is_skipped(model):
    """The second of two: its group is the infinite one."""
    groups = [make_groups()[0], *bad_batch(INFINITE).groups]
    with Ranks(config_for(model, updates_per_step=2, non_finite="skip")) as ranks:
        sums = ranks.step(make_batch(groups))
    assert (sums.num_updates, sums.num_skipped) == (1, 1)
    assert sums.num_tokens == sum(len(c.token_ids) for c in groups[0].group.completions)
    assert np.isfinite([sums.loss, sums.grad_norm, *sums.sums.values()]).all()


@pytest.mark.parametrize("rewards", [INFINITE, HUGE])
def test_stopping_names_the_groups_of_the_update(model, rewards):
    """Of the infinite loss exactly the group it comes from, of the gradient all in the update."""
    groups = [*make_groups(num_groups=2), *bad_batch(rewards).groups]
    with Ranks(config_for(model)) as ranks:
        with pytest.raises(NonFiniteLoss) as caught:
            ranks.step(make_batch(groups))
        with pytest.raises(NonFiniteLoss):
            ranks.answer(1, "step")
    assert "in the update on groups 0, 1, 77; the optimizer was not stepped" in str(caught.value)
    assert ("groups 77)" in str(caught.value)) == (rewards is INFINITE)
    assert str(caught.value).count("not stepped") == 1


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_a_critic_and_an_adaptive_coefficient_continue_from_a_checkpoint_bit_for_bit(model, tmp_path, zero_stage):
    """Weights, and every sum of the steps: the critic's loss, the KL, the coefficient in use."""
    kl = {"coefficient": 0.1, "target": 1e-4, "horizon": 20}
    settings = {"algorithm": "ppo", "kl": kl, "updates_per_step": 2, "critic": {"learning_rate": 1e-3}}
    config = config_for(model, zero_stage=zero_stage, warmup_steps=5, **settings)
    batches = [make_batch(make_groups(seed), seed) for seed in range(4)]
    with Ranks(config) as ranks:
        for batch in batches[:2]:
            ranks.step(batch)
        ranks.save(tmp_path, {"step": 2})
        unbroken = [ranks.step(batch) for batch in batches[2:]], ranks.weights(tmp_path / "unbroken")
    with Ranks(config) as ranks:
        assert ranks.all("load", str(tmp_path)) == [{"step": 2}] * 2
        resumed = [ranks.step(batch) for batch in batches[2:]], ranks.weights(tmp_path / "resumed")
    assert repr(unbroken[0]) == repr(resumed[0])
    assert torch.equal(unbroken[1], resumed[1])
    coefficients = [sums.kl_coefficient for sums in resumed[0]]
    assert len({0.1, *coefficients}) == 3
