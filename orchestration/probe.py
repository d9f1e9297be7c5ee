"""Does every node see what its actors will need? Asked of all nodes of an existing cluster before an actor starts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema import RunConfig
from orchestration.placement import NodeRoom
from orchestration.plan import ResourcePlan
from quorum.errors import ResourceError

PROBE_SECONDS = 90.0
"""For all nodes together: a node starts a worker process for its task, and may unpack a working directory for it."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Paths that a node must see."""

    model: str | None
    """Directory with config.json; None: a hub name, or nobody on the node loads it."""
    run: str | None
    """Run directory; None: no rank writes a checkpoint from that node."""
    run_id: str = ""
    """That run.json must hold: another directory may be mounted at the same path."""


def look(needs: Needs) -> list[str]:
    """What this machine does not see of `needs`, in clauses; empty when all is there."""
    problems = []
    if needs.model is not None and not (Path(needs.model) / "config.json").is_file():
        problems.append(f"model.path {needs.model} is not there")
    if needs.run is not None:
        info = Path(needs.run) / "run.json"
        try:
            found = json.loads(info.read_text(encoding="utf-8")).get("run_id")
        except (OSError, ValueError):
            problems.append(f"run.dir {needs.run} is not there")
        else:
            if found != needs.run_id:
                problems.append(f"run.dir {needs.run} is another directory there, of run {found}")
            elif not os.access(needs.run, os.W_OK):
                problems.append(f"run.dir {needs.run} cannot be written by uid {os.getuid()}")
    return problems


def needs_of(config: RunConfig, plan: ResourcePlan) -> Needs:
    """Everything that actors of the run may need, of whatever kind."""
    model, info = Path(config.model.path), config.run_path.absolute() / "run.json"
    run_id = json.loads(info.read_text(encoding="utf-8"))["run_id"] if info.is_file() else ""
    return Needs(
        model=str(model.absolute()) if model.is_dir() else None,
        run=str(info.parent) if run_id and plan.num_ranks else None,
        run_id=run_id,
    )


def needs_by_node(needs: Needs, plan: ResourcePlan, nodes: Sequence[NodeRoom]) -> dict[str, Needs]:
    """By node id, what those that could hold a sampler or a rank, when empty, must see."""
    rank = {"CPU": plan.cpus_per_rank, "GPU": plan.gpus_per_rank}
    teacher = {"CPU": plan.cpus_per_sampler, "GPU": plan.gpus_per_teacher}
    loaders = [dict(sampler.bundle) for sampler in plan.samplers] + [teacher] * bool(plan.num_teachers)
    found = {}
    for node in nodes:
        holds_rank = bool(plan.num_ranks) and _could_hold(node, rank)
        if holds_rank or any(_could_hold(node, bundle) for bundle in loaders):
            found[node.node_id] = Needs(needs.model, needs.run if holds_rank else None, needs.run_id)
    return found


def _could_hold(node: NodeRoom, bundle: Mapping[str, float]) -> bool:
    return all(node.total.get(kind, 0) >= need for kind, need in bundle.items())


def check_nodes(config: RunConfig, plan: ResourcePlan, nodes: Sequence[NodeRoom]) -> None:
    """Have every node that may hold an actor look for the run directory and the model.

    Raises:
        ResourceError: names the nodes that do not see them, or gave no answer within `PROBE_SECONDS`.
    """
    wanted = needs_by_node(needs_of(config, plan), plan, nodes)
    answers = _ask(wanted)
    names = {node.node_id: node.name for node in nodes}
    blind = {node_id: found for node_id, found in answers.items() if found}
    if not blind:
        return
    lines = [f"node {names[node_id]}: {'; '.join(found)}" for node_id, found in sorted(blind.items())]
    raise ResourceError(
        f"{len(blind)} of {len(answers)} nodes do not see what their actors need:\n"
        + "\n".join(f"  - {line}" for line in lines)
        + "\nput run.dir and model.path on storage that is mounted at the same path on all nodes, for one user that "
        "may write there (NFS, Lustre, a ReadWriteMany volume), or give the model by its hub name"
    )


def _ask(wanted: Mapping[str, Needs]) -> dict[str, list[str]]:
    """What `look` finds on each node, by node id."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(look)
    asked: dict[Any, str] = {}
    for node_id, needs in wanted.items():
        strategy = NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
        asked[task.options(scheduling_strategy=strategy).remote(needs)] = node_id
    ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=PROBE_SECONDS) if asked else ([], [])
    answers = {asked[reference]: [f"no answer within {PROBE_SECONDS:g} s"] for reference in late}
    for reference in ready:
        try:
            answers[asked[reference]] = ray.get(reference, timeout=PROBE_SECONDS)
        except ray.exceptions.RayError as exc:
            answers[asked[reference]] = [f"the look failed ({str(exc).strip().splitlines()[0][:200]})"]
    for reference in late:
        ray.cancel(reference, force=True)
    return answers
