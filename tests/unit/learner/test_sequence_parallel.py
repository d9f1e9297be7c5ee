"""Cutting packed rows for ranks that share them, and which models can."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from learner import sequence_parallel  # noqa: E402
from learner.policy import Policy  # noqa: E402
from learner.sequence_parallel import Groups, Slice, share_rows  # noqa: E402
from quorum.errors import DataError  # noqa: E402


def place(monkeypatch, size, rank):
    monkeypatch.setattr(sequence_parallel, "_groups", Groups(size, rank, None, None))


def test_a_row_is_cut_evenly_and_its_padding_is_a_sequence_of_its_own(monkeypatch):
    """Sequences of 4 and 3 tokens on two ranks: slices of 4, one token of padding; completion tokens are predicted at
    2, 3 and 6 of the row, which are 2 and 3 of the first slice and 2 of the second."""
    row, positions, targets = torch.arange(10, 17).unsqueeze(0), torch.tensor([2, 3, 6]), torch.tensor([7, 8, 9])
    found = []
    for rank in range(2):
        place(monkeypatch, 2, rank)
        part = Slice((4, 3), positions)
        found.append(
            (part.of_row(row).tolist(), part.lengths, part.positions.tolist(), part.of_tokens(targets).tolist())
        )
    assert found == [
        ([[10, 11, 12, 13]], (4, 3, 1), [2, 3], [7, 8]),
        ([[14, 15, 16, 0]], (4, 3, 1), [2], [9]),
    ]


def test_a_dummy_of_one_token_still_gives_every_rank_one(monkeypatch):
    place(monkeypatch, 4, 3)
    part = Slice((1,), torch.zeros(0, dtype=torch.long))
    assert part.lengths == (1, 3)
    assert part.of_row(torch.zeros(1, 1)).shape == (1, 1) and part.positions.tolist() == []


def policy_model(**settings):
    defaults = {"vocab_size": 32, "hidden_size": 24, "intermediate_size": 24, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**{**defaults, **heads, **settings}))


@pytest.mark.parametrize(("size", "key_heads"), [(2, 2), (2, 1), (4, 2), (4, 1)])
def test_key_heads_are_divided_or_repeated(monkeypatch, size, key_heads):
    model = policy_model(num_key_value_heads=key_heads)
    Policy(model, temperature=1.0)
    place(monkeypatch, size, 0)
    share_rows(model)
    assert model.config._attn_implementation == sequence_parallel.NAME


def test_a_size_that_does_not_divide_the_heads_is_refused(monkeypatch):
    model = policy_model()
    Policy(model, temperature=1.0)
    place(monkeypatch, 3, 0)
    with pytest.raises(DataError, match="3 does not divide the model's 4 attention heads"):
        share_rows(model)


def test_a_model_that_cannot_pack_its_rows_is_refused(monkeypatch):
    model = policy_model()
    model.set_attn_implementation("eager")
    place(monkeypatch, 2, 0)
    with pytest.raises(DataError, match="Qwen2ForCausalLM cannot attend within packed sequences"):
        share_rows(model)
