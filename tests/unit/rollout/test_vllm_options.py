import pytest

from rollout.engines.vllm_options import PROFILES, engine_arguments, set_environment, validate_engine_options
from rollout.settings import SamplerSettings


def settings(**changes: object) -> SamplerSettings:
    return SamplerSettings(**{"sampler_id": "s", "model": "m", "max_model_len": 100, **changes})  # type: ignore[arg-type]


def test_on_a_cpu_bits_do_not_depend_on_load_and_nothing_is_compiled() -> None:
    environ = {"VLLM_CPU_KVCACHE_SPACE": "4"}
    set_environment(settings(num_threads=3, cpu_binding="1-3"), environ)
    assert environ["VLLM_CPU_ATTN_SPLIT_KV"] == "0"
    assert environ["TORCHDYNAMO_DISABLE"] == "1"
    assert environ["VLLM_CPU_OMP_THREADS_BIND"] == "1-3"
    assert environ["OMP_NUM_THREADS"] == "3"
    assert "VLLM_CPU_KVCACHE_SPACE" not in environ


def test_on_a_gpu_vllms_own_environment_stays() -> None:
    environ: dict[str, str] = {}
    set_environment(settings(device="cuda"), environ)
    assert set(environ) == {"VLLM_LOGGING_LEVEL", "VLLM_NO_USAGE_STATS"}


@pytest.mark.parametrize("context", [100, 10_000])
def test_on_a_cpu_a_batch_holds_at_least_one_whole_prompt(context: int) -> None:
    arguments = engine_arguments(settings(max_model_len=context, kv_cache_gib=0.5))
    assert arguments["max_num_batched_tokens"] >= context
    assert arguments["enable_chunked_prefill"] is False
    assert arguments["kv_cache_memory_bytes"] == 2**29
    assert arguments["block_size"] == 32


def test_options_replace_the_devices_defaults_but_not_what_quorum_owns() -> None:
    arguments = engine_arguments(settings(engine_options={"block_size": 64, "swap_space": 1}))
    assert (arguments["block_size"], arguments["swap_space"]) == (64, 1)
    assert arguments["logprobs_mode"] == "processed_logprobs"
    assert arguments["generation_config"] == "vllm"
    for device in PROFILES:
        assert engine_arguments(settings(device=device))["worker_extension_cls"].startswith("rollout.transfer.")


def test_the_extension_class_exists_under_the_name_that_vllm_is_given() -> None:
    from pathlib import Path

    import rollout.transfer

    module, name = engine_arguments(settings())["worker_extension_cls"].rsplit(".", 1)
    source = Path(rollout.transfer.__file__).with_name("worker.py").read_text(encoding="ascii")
    assert module == "rollout.transfer.worker"
    assert f"class {name}" in source


def test_an_option_that_quorum_sets_names_the_setting() -> None:
    assert validate_engine_options({"max_model_len": 5}) == [
        "rollout.engine.options.max_model_len is set by rollout.max_model_len; leave it out"
    ]


@pytest.mark.stack
@pytest.mark.timeout(200)
def test_what_a_cpu_cannot_do_is_refused_before_the_start() -> None:
    problems = validate_engine_options(
        {"enable_chunked_prefill": True, "max_num_batched_tokens": 64}, device="cpu", max_model_len=100
    )
    assert any("kills vLLM's CPU engine" in problem for problem in problems)
    assert any("64 is below the context of 100" in problem for problem in problems)
    assert validate_engine_options({}, device="cpu", max_model_len=100) == []


@pytest.mark.stack
@pytest.mark.timeout(200)
def test_names_and_types_are_checked_against_the_installed_vllm() -> None:
    pytest.importorskip("vllm")
    assert validate_engine_options({"block_size": 32, "gpu_memory_utilization": 1, "enforce_eager": True}) == []
    assert "did you mean 'block_size'?" in validate_engine_options({"blocksize": 32})[0]
    [problem] = validate_engine_options({"max_num_seqs": "many"})
    assert problem.startswith("rollout.engine.options.max_num_seqs is 'many' (str)")
    assert len(validate_engine_options({"enforce_eager": "yes", "max_num_seqs": 1.5})) == 2
