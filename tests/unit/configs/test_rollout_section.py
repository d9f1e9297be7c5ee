"""What of the samplers' settings does not fit together is said at load, with the way out."""

from __future__ import annotations

import pytest

from configs.load import load_config
from quorum.errors import ConfigError

AHEAD = ("rollout.max_off_policy_steps=1", "learner.importance.mode=truncate")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rollout.max_off_policy_steps=1"], "nothing corrects for them; set learner.importance.mode=truncate"),
        (["rollout.carried_groups=1"], "with max_off_policy_steps 0 and prompts_per_step 64 at most 0 groups"),
        ([*AHEAD, "rollout.carried_groups=64"], "at most 63 groups can be carried over"),
        ([*AHEAD, "rollout.carried_groups=4", "voting.labels=cross_view"], "needs both views of a prompt in one step"),
        ([*AHEAD, "cluster.colocate=true"], "take turns on shared GPUs, so nothing can overlap"),
        (["rollout.min_samplers=3"], "rollout.min_samplers 3 is above the 2 samplers that the run starts"),
        (
            ["rollout.autoscale.min_samplers=3", "rollout.autoscale.max_samplers=8"],
            "rollout.autoscale keeps between 3 and 8 samplers, the run starts with 2",
        ),
        (["rollout.autoscale.min_samplers=1"], "max_samplers"),
        (["rollout.dispatch.order=shortest"], "longest_first"),
    ],
)
def test_what_does_not_fit_is_named(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("demo", words)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        list(AHEAD),
        ["rollout.max_off_policy_steps=1", "learner.old_logprobs=rollout"],
        [*AHEAD, "rollout.carried_groups=63"],
        ["rollout.autoscale.max_samplers=2"],
    ],
)
def test_what_fits_is_taken(words: list[str]) -> None:
    assert load_config("demo", words).rollout.num_started == 2


def test_a_fleet_counts_its_kinds() -> None:
    words = ["rollout.fleet=[{num_samplers: 2, tensor_parallel_size: 2}, {num_samplers: 3, device: cpu}]"]
    config = load_config("demo", [*words, "rollout.min_samplers=5"])
    assert config.rollout.num_started == 5
