"""`quorum bench`: options, stored results and comparisons, with a bench that measures nothing."""

from __future__ import annotations

import json
import sys
from inspect import signature
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from benchmarks.results import BenchResult, Median
from orchestration.cli.bench import BENCHES, PEERS, _bench
from orchestration.cli.main import app

RATES = {"now": 100.0}
RUNS: list[int] = []
"""Repeats of every run of the toy."""


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_toy(repeats: int, seed: int, workload: str = "spread") -> BenchResult:
        RUNS.append(repeats)
        figures = {"tokens_per_second": Median([RATES["now"]] * repeats)}
        return BenchResult("toy", figures, seed, repeats, {"workload": workload})

    module = ModuleType("benchmarks.toy")
    module.run_toy = run_toy  # type: ignore[attr-defined]
    module.workload_of = lambda workload="spread": {"workload": workload}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "benchmarks.toy", module)
    monkeypatch.setitem(BENCHES, "toy", "nothing")
    monkeypatch.setitem(RATES, "now", 100.0)


def bench(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["bench", *words])
    return done.exit_code, done.output


def test_it_prints_a_table_and_ends_with_the_result_line() -> None:
    code, output = bench("toy", "--repeats", "2")
    lines = output.splitlines()
    assert code == 0 and lines[0].split() == ["figure", "median", "lowest", "highest"]
    assert json.loads(lines[-1].removeprefix("RESULT "))["tokens_per_second"] == 100.0


def test_a_stored_result_is_a_baseline_that_fails_past_the_tolerance(tmp_path: Path) -> None:
    base = str(tmp_path / "base.json")
    assert bench("toy", "--json", base)[0] == 0
    RATES["now"] = 92.0
    code, output = bench("toy", "--against", base)
    assert code == 0 and "-8.0%  ok" in output
    code, output = bench("toy", "--against", base, "--tolerance", "5")
    assert code == 5 and "WORSE (higher is better)" in output
    assert output.index("RESULT ") < output.index("against ") < output.index("worse than")
    RATES["now"] = 200.0
    assert bench("toy", "--against", base, "--tolerance", "0")[0] == 0


def test_a_baseline_of_another_workload_or_none_at_all_is_refused(tmp_path: Path) -> None:
    base = str(tmp_path / "base.json")
    bench("toy", "--json", base)
    RUNS.clear()
    for words, wanted in [
        (("--workload", "short"), "workload 'spread' there, 'short'"),
        (("--seed", "1"), "seed 0 there"),
    ]:
        code, output = bench("toy", *words, "--against", base)
        assert code == 2 and "measured another workload" in output and wanted in output
    code, output = bench("rollout", "--against", base)
    assert code == 2 and "is a result of bench toy, this is rollout" in output
    code, output = bench("toy", "--against", str(tmp_path / "gone.json"))
    assert code == 3 and "--json" in output
    assert not RUNS, "said before anything is measured"


@pytest.mark.parametrize("name", sorted(BENCHES))
def test_results_are_named_and_described_as_the_check_before_expects(name: str) -> None:
    peers = [[], *([peer] for peer, of in PEERS.items() if of == name)]
    chosen = [_bench(name, False, words) for words in peers]
    for one in [*chosen, *([_bench(name, True, [])] if name == "pipeline" else [])]:
        source = Path(str(sys.modules[one.run.__module__].__file__)).read_text()
        made = source.partition(f'BenchResult("{one.bench}", ')[2].splitlines()[0]
        options = set(signature(one.run).parameters) & {"workload", "samplers", "model"}
        assert options == set(signature(one.workload_of).parameters if one.workload_of is not dict else ())
        assert ("workload_of(" in made) == bool(options)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["toy", "--keep", "x"], "drop --keep"),
        (["toy", "--against", "trl"], "belongs to `quorum bench pipeline`"),
        (["scale", "--workload", "short"], "does not take --workload"),
        (["pipeline", "--schedule", "--against", "trl"], "leave one out"),
        (["startup", "--samplers", "2"], "--samplers belongs to `quorum bench rollout`"),
        (["toy", "--json", "/proc/x/y.json"], "--json /proc/x/y.json: cannot be written"),
        (["rollout", "--samplers", "1,two"], "as in 1,2,4"),
        (["rollout", "--samplers", "0"], "expected numbers from 1 on"),
        (["rollout", "--model", "gpt-7"], "there are: tiny"),
        (["toy", "--schedule"], "belongs to `quorum bench pipeline`"),
        (["nothing"], "there are: elastic"),
    ],
)
def test_options_that_the_bench_has_no_use_for_are_refused(words: list[str], wanted: str) -> None:
    code, output = bench(*words)
    assert code == 2 and wanted in output
