"""TRL's side of the pipeline bench, for real but tiny: what it draws, how it is paid, and that it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from benchmarks.child import Child  # noqa: E402
from benchmarks.models import make_random_model, write_prompts  # noqa: E402
from benchmarks.trl_side import Steps, TrlWork, make_stepper, make_trainer, try_out  # noqa: E402
from configs.schema import ModelSection  # noqa: E402
from data.model_files import load_tokenizer  # noqa: E402
from orchestration.registries import load_run_config  # noqa: E402
from voting import vote  # noqa: E402

pytestmark = [
    pytest.mark.stack,
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore:TRL currently supports vLLM versions"),
]

PROMPTS, K, MAX_TOKENS = 4, 4, 6


class Kept(Steps):
    """Remembers every step's prompts, completions and rewards."""

    def __init__(self) -> None:
        self.steps: list[tuple[list[str], list[str], list[list[int]], list[float]]] = []
        super().__init__()

    def rewards(self, prompts: Any, completions: Any, completion_ids: Any, **more: Any) -> list[float]:
        found = super().rewards(prompts, completions, completion_ids, **more)
        self.steps.append((list(prompts), list(completions), list(completion_ids), found))
        return found


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> TrlWork:
    root = tmp_path_factory.mktemp("trl")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    model = make_random_model(root / "model", hidden=64, layers=1)
    torch.set_num_threads(before)
    data = write_prompts(root / "prompts.jsonl", num_prompts=2 * PROMPTS)
    return TrlWork(str(model), str(data), PROMPTS, K, MAX_TOKENS, 1e-3, 1, "cpu")


def test_it_draws_k_completions_of_each_prompt_in_order_pays_the_vote_and_trains(work: TrlWork) -> None:
    kept, answers = Kept(), []
    trainer = make_trainer(work, {"rows": 8}, kept, max_steps=2)
    trainer.add_callback(make_stepper(iter([{}, {}]), answers.append, kept))
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    trainer.train()
    section = load_run_config("bench", ["model.path=m", "data.train.0.path=p"]).voting
    lines = [line.split('"')[3] for line in Path(work.data).read_text().splitlines()]
    tokenizer = load_tokenizer(ModelSection(path=work.model))
    assert len(kept.steps) == len(answers) == 2
    for step, (prompts, completions, ids, rewards) in enumerate(kept.steps):
        wanted = lines[step * PROMPTS : (step + 1) * PROMPTS]
        assert prompts == [prompt for prompt in wanted for _ in range(K)], "as the other side takes them"
        groups = [completions[i : i + K] for i in range(0, len(completions), K)]
        paid = [rewards[i : i + K] for i in range(0, len(rewards), K)]
        voted = vote(groups, section)
        assert paid == [[0.0] * K if one.rewards is None else one.rewards.tolist() for one in voted]
        assert all(1 <= len(row) <= MAX_TOKENS for row in ids)
        assert [tokenizer.decode(row, skip_special_tokens=True) for row in ids] == completions
        assert answers[step]["completions"] == PROMPTS * K and answers[step]["tokens"] == sum(map(len, ids))
        assert answers[step]["reward_mean"] == pytest.approx(sum(rewards) / len(rewards))
    changed = [name for name, weight in trainer.model.state_dict().items() if not torch.equal(weight, before[name])]
    assert changed and trainer.model.dtype == torch.float32


def test_settings_that_do_not_run_here_are_said_and_the_child_takes_the_fastest_of_those_that_do(work: TrlWork) -> None:
    assert "TypeError" in str(try_out(work, {"rows": 8, "no_such_setting": True}))
    child = Child("TRL's side", "benchmarks.trl_side", {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"})
    try:
        described = {name: getattr(work, name) for name in TrlWork.__slots__}
        able = {"one": {"rows": 16}, "none": {"rows": 16, "no_such_setting": True}}
        child.tell({"do": "start", "work": described, "candidates": able})
        ready = child.answer("start", 200.0)
        assert ready["best"] == "one" and "TypeError" in ready["tried"]["none"] and ready["tried"]["one"] > 0
        step = child.ask({"do": "step"}, 60.0)
        assert step["completions"] == PROMPTS * K and step["seconds"] > 0
    finally:
        child.stop()
