"""TRL's GRPO and RLOO trainers as peers: the same model, prompts, completions and rewards come to the same weights.

Where settings coincide the loss is the same too. Known differences, and what brings the two together:

- GRPO: TRL adds 1e-4 to the standard deviation; `grpo` takes it as `epsilon` (1e-6 by default).
- `bnpo` and `dapo` are both `token_mean` where a step is one micro-batch; over several TRL's `bnpo` averages their
  means, while `token_mean` always divides by the tokens of the whole update.
- RLOO: TRL's loss is -mean(ratio of the sequence x A), ours per token: with `sequence_constant` over length 1 the
  gradient at ratio 1 is the same, but the reported value counts each completion as often as it has tokens. The KL in
  its reward is k1.
- The Hugging Face trainer leaves norms and biases out of weight decay; here it is told not to.
- KL in TRL's GRPO is always k3 in the loss and not clamped. By default TRL multiplies it by the ratio
  (`use_bias_correction_kl`, arXiv 2512.02556), whose gradient counts even where it is 1; the learner does not.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")
pytest.importorskip("trl")

from tests.builders import make_group, make_prompt, make_scored  # noqa: E402
from tests.integration.learner_processes import Ranks, make_batch, make_config, make_model  # noqa: E402

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="TRL currently supports vLLM versions")
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

pytestmark = [
    pytest.mark.stack,
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore:TRL currently supports vLLM versions"),
]

STEPS, PROMPTS, K = 3, 4, 4
COMMON = {"learning_rate": 1e-3, "weight_decay": 0.01, "max_grad_norm": 1.0}


def make_steps(num_steps: int = STEPS) -> list[list[Any]]:
    """Scored groups of each step; prompts of 2 to 6 tokens, completions of 1 to 24 that differ within a group."""
    rng, steps = np.random.default_rng(0), []
    for step in range(num_steps):
        groups = []
        for index in range(PROMPTS):
            prompt = make_prompt(index, rng.integers(3, 60, int(rng.integers(2, 7))).tolist())
            completions = [[3 + i, *rng.integers(3, 60, int(rng.integers(0, 24))).tolist()] for i in range(K)]
            rewards = [1.0, 0.0, *rng.integers(0, 2, K - 2).astype(float)]
            groups.append(make_scored(make_group(completions, group_id=step * PROMPTS + index, prompt=prompt), rewards))
        steps.append(groups)
    return steps


class Fed:
    """A trainer that is given completions instead of sampling them, and keeps its losses."""

    def __init__(self, groups: list[Any], **settings: Any) -> None:
        self.groups, self.losses = {str(scored.group.group_id): scored for scored in groups}, []
        super().__init__(reward_funcs=self._rewards, **settings)

    def _rewards(self, prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [self._find(prompt, ids)[1] for prompt, ids in zip(prompts, completion_ids, strict=True)]

    def _find(self, prompt: str, ids: list[int]) -> tuple[int, float]:
        scored = self.groups[prompt]
        rows = [completion.token_ids.tolist() for completion in scored.group.completions]
        return rows.index(ids), float(scored.rewards[rows.index(ids)])

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        self.asked = prompts
        return [self.groups[prompt].group.prompt_token_ids.tolist() for prompt in prompts], None, {}

    def _generate_single_turn(self, *_: Any) -> Any:
        ids = [self.groups[p].group.completions[i % K].token_ids.tolist() for i, p in enumerate(self.asked)]
        return ids if isinstance(self, RLOOTrainer) else (ids, None)

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        return [name for name, _ in model.named_parameters()]

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(*args, **kwargs)
        self.losses.append(loss.item())
        return loss


class FedGRPO(Fed, GRPOTrainer):
    pass


class FedRLOO(Fed, RLOOTrainer):
    pass


def flat(state: dict[str, Any]) -> Any:
    return torch.cat([state[name].detach().float().reshape(-1) for name in sorted(state)])


def train_with_trl(model: Any, steps: list[list[Any]], directory: Any, trainer: Any, config: Any, **settings: Any):
    """(losses, weights before, weights after)"""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    groups = [scored for step in steps for scored in step]
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    arguments = config(
        output_dir=str(directory),
        per_device_train_batch_size=PROMPTS * K,
        gradient_accumulation_steps=1,
        num_generations=K,
        max_steps=settings.pop("max_steps", STEPS),
        lr_scheduler_type="constant",
        optim="adamw_torch",
        adam_beta1=0.9,
        adam_beta2=0.95,
        adam_epsilon=1e-8,
        shuffle_dataset=False,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **COMMON,
        **settings,
    )
    made = trainer(
        groups,
        model=policy,
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": [str(scored.group.group_id) for scored in groups]}),
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    names = [name for name, _ in policy.named_parameters()]
    before = flat({name: policy.state_dict()[name].clone() for name in names})
    made.train()
    return made.losses, before, flat({name: policy.state_dict()[name] for name in names})


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


CLIP = {"epsilon": 0.2, "epsilon_high": 0.28}
CLIPPED = {"name": "ppo_clip", "options": {"clip_low": 0.2, "clip_high": 0.28}}
GRPO = {"algorithm": {"name": "grpo", "options": {"epsilon": 1e-4}}}
SEQUENCE = {"importance_sampling_level": "sequence", "loss_type": "grpo", "epsilon": 3e-4, "epsilon_high": 4e-4}
AGAIN = {"updates_per_step": STEPS, "epochs_per_step": STEPS, "old_logprobs": "recompute"}
CASES = {
    "grpo": ({"loss_type": "grpo", "beta": 0.0}, {**GRPO, "aggregation": "sequence_mean"}),
    "grpo with KL": (
        {"loss_type": "grpo", "beta": 0.5, "use_bias_correction_kl": False},
        {**GRPO, "aggregation": "sequence_mean", "kl": {"coefficient": 0.5, "place": "loss", "estimator": "k3"}},
    ),
    "dr_grpo": (
        {"loss_type": "dr_grpo", "scale_rewards": "none", "max_completion_length": 24},
        {"algorithm": "dr_grpo", "aggregation": "sequence_constant", "aggregation_length": 24},
    ),
    "dapo": ({"loss_type": "dapo"}, {**GRPO, "aggregation": "token_mean"}),
    "bnpo": ({"loss_type": "bnpo"}, {**GRPO, "aggregation": "token_mean"}),
    "grpo, three updates on one batch": (
        {"loss_type": "grpo", **CLIP},
        {**GRPO, "aggregation": "sequence_mean", "loss": CLIPPED, **AGAIN},
    ),
    "grpo, three updates, dual clip": (
        {"loss_type": "dapo", **CLIP, "delta": 1.5},
        {**GRPO, "loss": {"name": "ppo_clip", "options": {**CLIPPED["options"], "dual_clip": 1.5}}, **AGAIN},
    ),
    "gspo, three updates on one batch": (SEQUENCE, {**GRPO, "aggregation": "sequence_mean", "loss": "gspo", **AGAIN}),
    "cispo, three updates on one batch": (
        {"loss_type": "cispo", "epsilon_high": 1.1},
        {**GRPO, "loss": {"name": "cispo", "options": {"max_ratio": 1.1}}, **AGAIN},
    ),
}


def train_with_ours(model: Any, batches: list[Any], directory: Any, **learner: Any) -> tuple[list[Any], Any]:
    """(sums of each step, weights after)"""
    with Ranks(make_config(model, num_ranks=1, **COMMON, **learner)) as ranks:
        sums = [ranks.step(batch) for batch in batches]
        return sums, ranks.weights(directory / "ours")


def relative_difference(ours: Any, theirs: Any, before: Any) -> float:
    """|w_ours - w_theirs| / |w_theirs - w_before|; 3e-6 to 5e-5 was seen."""
    return float((ours - theirs).norm() / (theirs - before).norm())


@pytest.mark.parametrize("name", CASES)
def test_grpo_takes_the_same_three_updates(model, tmp_path, name):
    settings, learner = CASES[name]
    again = learner.get("updates_per_step", 1)
    steps = make_steps(STEPS // again)
    losses, before, theirs = train_with_trl(
        model, steps, tmp_path, FedGRPO, GRPOConfig, **settings, num_iterations=again
    )
    batches = [make_batch(groups, i) for i, groups in enumerate(steps)]
    sums, ours = train_with_ours(model, batches, tmp_path, **learner)
    assert len(losses) == STEPS == sum(s.num_updates for s in sums)
    assert np.mean([s.loss for s in sums]) == pytest.approx(np.mean(losses), rel=1e-4, abs=1e-5)
    if again == 1:
        assert [s.loss for s in sums] == pytest.approx(losses, rel=1e-4, abs=1e-5)
    elif name.startswith("grpo"):
        assert sums[0].mean("clipped") > 0
    assert relative_difference(ours, theirs, before) <= 1e-3


@pytest.mark.parametrize("beta", [0.0, 0.05])
def test_rloo_takes_the_same_three_updates(model, tmp_path, beta):
    """Its value is another: ours counts a completion as often as it has tokens. The weights are the same."""
    steps = make_steps()
    losses, before, theirs = train_with_trl(model, steps, tmp_path, FedRLOO, RLOOConfig, beta=beta)
    learner = {
        "algorithm": "rloo",
        "aggregation": "sequence_constant",
        "aggregation_length": 1,
        "kl": {"coefficient": beta, "place": "reward", "estimator": "k1"},
    }
    _, ours = train_with_ours(model, [make_batch(g, i) for i, g in enumerate(steps)], tmp_path, **learner)
    assert len(losses) == STEPS
    assert relative_difference(ours, theirs, before) <= 1e-3
