"""The resource plan: its sums, its refusals, its sentences."""

from __future__ import annotations

import pytest

from configs.schema import RunConfig
from orchestration.plan import ResourcePlan, make_plan
from quorum.errors import ResourceError


def plan(**changes: object) -> ResourcePlan:
    values: dict[str, object] = {
        "device": "cuda",
        "num_samplers": 3,
        "num_ranks": 4,
        "num_replicas": 1,
        "cpus_per_sampler": 2,
        "cpus_per_rank": 1,
        "gpus_per_sampler": 2,
        "gpus_per_rank": 1,
        "colocate": False,
        "local_gpus": 0,
    }
    return ResourcePlan(**(values | changes))  # type: ignore[arg-type]


def test_gpus_and_cpus_add_up() -> None:
    assert plan().total_gpus == 10
    assert plan().total_cpus == 3 * 2 + 4 + 1


def test_a_cluster_with_too_few_gpus_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(ResourceError, match=r"3 samplers of 2 GPUs \+ 4 ranks need 10 GPUs, the cluster has 8"):
        plan().check_cluster({"CPU": 64, "GPU": 8})


def test_a_cluster_with_too_few_cpus_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(ResourceError, match="need 11 CPUs, the cluster has 10"):
        plan(device="cpu", gpus_per_sampler=0, gpus_per_rank=0).check_cluster({"CPU": 10})


def test_a_cluster_that_is_just_large_enough_passes() -> None:
    plan().check_cluster({"CPU": 11, "GPU": 10})


def test_a_colocated_pair_counts_one_gpu() -> None:
    assert plan(colocate=True, num_samplers=1, num_ranks=1, gpus_per_sampler=0.5, gpus_per_rank=0.5).total_gpus == 1


def config(**cluster: object) -> RunConfig:
    sections = {"run": {"dir": "x"}, "model": {"path": "m"}, "data": {"train": [{"path": "p"}]}, "cluster": cluster}
    return RunConfig.model_validate(sections)


def test_on_a_cpu_actors_may_outnumber_cores_and_the_plan_says_so() -> None:
    made = make_plan(config(device="cpu", cpus_per_sampler=64))
    assert made.total_gpus == 0
    assert any("take turns" in line for line in made.describe())


def test_cuda_without_a_gpu_names_the_fix() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ResourceError, match="cluster.device=cpu"):
        make_plan(config(device="cuda"))


@pytest.mark.parametrize(("resources", "device"), [({"CPU": 8.0}, "cpu"), ({"CPU": 8.0, "GPU": 2.0}, "cuda")])
def test_an_existing_clusters_device_is_what_it_has(resources: dict[str, float], device: str) -> None:
    assert make_plan(config(address="host:6379"), cluster=resources).device == device


def test_an_existing_cluster_that_is_too_small_is_refused_before_anything_starts() -> None:
    with pytest.raises(ResourceError, match=r"need 2 GPUs, the cluster has 1; lower rollout.num_samplers"):
        make_plan(config(address="host:6379"), cluster={"CPU": 8.0, "GPU": 1.0})


def test_only_one_sampler_and_one_rank_share_a_gpu() -> None:
    made = make_plan(config(address="host:6379", colocate=True), cluster={"CPU": 8.0, "GPU": 1.0})
    assert (made.total_gpus, made.gpus_per_sampler, made.gpus_per_rank) == (1, 0.5, 0.5)
    two = config(address="host:6379", colocate=True)
    two = two.model_copy(update={"rollout": two.rollout.model_copy(update={"num_samplers": 2})})
    with pytest.raises(ResourceError, match="between one sampler and one rank, but there are 2 samplers"):
        make_plan(two, cluster={"CPU": 8.0, "GPU": 4.0})
