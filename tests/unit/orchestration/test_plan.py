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


def with_sections(made: RunConfig, **sections: dict[str, object]) -> RunConfig:
    values = made.model_dump()
    for name, changes in sections.items():
        values[name] |= changes
    return RunConfig.model_validate(values)


def test_a_sampler_and_a_rank_share_a_gpu() -> None:
    made = make_plan(config(address="host:6379", colocate=True), cluster={"CPU": 8.0, "GPU": 1.0})
    assert (made.total_gpus, made.gpus_per_sampler, made.gpus_per_rank) == (1, 0.5, 0.5)


def test_several_samplers_and_as_many_ranks_share_a_gpu_each() -> None:
    pairs = with_sections(config(address="h:1", colocate=True), rollout={"num_samplers": 3}, learner={"num_ranks": 3})
    made = make_plan(pairs, cluster={"CPU": 8.0, "GPU": 3.0})
    assert made.total_gpus == 3
    assert made.bundles() == [{"CPU": 2, "GPU": 1}] * 3 + [{"CPU": 1}] * made.num_replicas
    assert any("3 placement groups, sampler and rank i sharing" in line for line in made.describe())


@pytest.mark.parametrize(
    ("rollout", "words"),
    [
        ({"num_samplers": 2}, "there are 2 samplers of 1 GPUs and 1 ranks; set rollout.num_samplers equal"),
        ({"tensor_parallel_size": 2}, "1 samplers of 2 GPUs and 1 ranks"),
        ({"fleet": [{"num_samplers": 1}]}, "leave rollout.fleet empty"),
        ({"autoscale": {"max_samplers": 4}}, "rollout.autoscale would change their number"),
    ],
)
def test_what_cannot_be_paired_is_refused_with_the_fix(rollout: dict[str, object], words: str) -> None:
    made = with_sections(config(address="host:6379", colocate=True), rollout=rollout)
    with pytest.raises(ResourceError, match=words):
        make_plan(made, cluster={"CPU": 8.0, "GPU": 4.0})


FLEET = [
    {"num_samplers": 2, "tensor_parallel_size": 2},
    {"num_samplers": 1},
    {"num_samplers": 3, "tensor_parallel_size": 1, "device": "cpu"},
]


def test_a_fleet_is_planned_sampler_by_sampler() -> None:
    made = make_plan(
        with_sections(config(address="h:1", cpus_per_sampler=2), rollout={"fleet": FLEET}),
        cluster={"CPU": 32.0, "GPU": 8.0},
    )
    assert made.num_samplers == 6
    assert [s.tensor_parallel_size for s in made.samplers] == [2, 2, 1, 1, 1, 1]
    assert [s.device for s in made.samplers] == ["cuda"] * 3 + ["cpu"] * 3
    assert [s.gpus for s in made.samplers] == [2, 2, 1, 0, 0, 0]
    assert made.total_gpus == 2 * 2 + 1 + 1
    assert made.total_cpus == 2 * 4 + 2 + 3 * 2 + made.num_ranks + made.num_replicas
    assert made.describe()[1:4] == [
        "samplers         2 x (4 CPU, 2 GPU, 2 workers) on cuda",
        "samplers         1 x (2 CPU, 1 GPU) on cuda",
        "samplers         3 x (2 CPU, 0 GPU) on cpu",
    ]


def test_a_sampler_added_to_a_fleet_is_of_its_first_kind() -> None:
    made = make_plan(with_sections(config(address="h:1"), rollout={"fleet": FLEET}), cluster={"CPU": 32, "GPU": 8})
    assert made.sampler(6) == made.sampler(0)
    assert made.bundles(7)[:7] == [s.bundle for s in made.samplers] + [made.sampler(0).bundle]
    assert len(made.bundles()) == 6 + made.num_ranks + made.num_replicas


def test_a_cuda_kind_where_the_run_has_no_gpu_is_refused_by_name() -> None:
    mixed = with_sections(
        config(address="h:1"), rollout={"fleet": [{"num_samplers": 1}, {"num_samplers": 2, "device": "cuda"}]}
    )
    with pytest.raises(ResourceError, match=r"rollout.fleet.1 \(2 samplers\) is for device cuda, and there is no GPU"):
        make_plan(mixed, cluster={"CPU": 8.0})
    off = with_sections(mixed, cluster={"device": "cpu"})
    with pytest.raises(ResourceError, match="cluster.device is cpu"):
        make_plan(off, cluster={"CPU": 8.0, "GPU": 4.0})


def test_a_fleet_that_is_too_large_is_refused_kind_by_kind() -> None:
    made = with_sections(config(address="h:1"), rollout={"fleet": FLEET})
    with pytest.raises(
        ResourceError,
        match=r"2 samplers of 2 GPUs \+ 1 samplers of 1 GPUs \+ 1 ranks need 6 GPUs, the cluster has 4; lower num",
    ):
        make_plan(made, cluster={"CPU": 32.0, "GPU": 4.0})
    with pytest.raises(ResourceError, match=r"2 samplers of 2 CPUs \+ 1 samplers of 1 CPUs \+ 3 samplers of 1 CPUs"):
        make_plan(made, cluster={"CPU": 2.0, "GPU": 8.0})
