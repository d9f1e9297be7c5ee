import pytest

from configs.load import load_config
from orchestration.processor import has_bfloat16_units
from orchestration.run_mode import dtype_notes

OLD = "processor\t: 0\nmodel name\t: A B\nflags\t\t: fpu avx512f avx512bw avx512_vnni\n"


@pytest.mark.parametrize(
    ("description", "has_units"),
    [
        (OLD, False),
        (OLD.replace("avx512_vnni", "avx512_vnni avx512_bf16"), True),
        (OLD.replace("fpu", "amx_bf16 fpu"), True),
        ("processor : 0\nFeatures : fp asimd sve\n", False),
        ("processor : 0\nFeatures : fp asimd svebf16 bf16\n", True),
        ("a kernel that says nothing of flags\n", True),
    ],
)
def test_bfloat16_units_are_read_from_the_processors_flags(description: str, has_units: bool) -> None:
    assert has_bfloat16_units(description) == has_units


def test_samplers_that_would_emulate_bfloat16_are_told_of() -> None:
    config = load_config("demo", ["rollout.dtype=bfloat16"])
    [note] = dtype_notes(config, "cpu", has_units=False)
    assert "rollout.dtype=float32" in note
    assert dtype_notes(config, "cpu", has_units=True) == []
    assert dtype_notes(config, "cuda", has_units=False) == []
    assert dtype_notes(load_config("demo"), "cpu", has_units=False) == []
