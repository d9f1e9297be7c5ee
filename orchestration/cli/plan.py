"""`quorum plan`: memory, balance and cost of a run before any GPU is taken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from quorum.errors import ConfigError

OWN = {"--check": ("--seed",), "--scale-study": ("--fit",)}
"""Modes that take no configuration, and the options of each."""


def plan(
    config: Annotated[str | None, typer.Argument(help="Preset name or YAML file. Left out with --check.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="section.field=value")] = None,
    gpus: Annotated[int | None, typer.Option("--gpus", min=1, help="GPUs in all; 8 if left out.")] = None,
    gpu_memory: Annotated[
        float | None, typer.Option("--gpu-memory", min=1, help="GB (10^9 bytes) of each; default: the named device's.")
    ] = None,
    gpus_per_node: Annotated[
        int | None, typer.Option("--gpus-per-node", min=1, help="GPUs that a sampler can span; 8 if left out.")
    ] = None,
    device_name: Annotated[
        str | None, typer.Option("--device-name", help="h100 (if left out), h200 or a100: for estimated rates.")
    ] = None,
    rates: Annotated[
        str | None,
        typer.Option("--rates", metavar="FILE|RUN", help="Measured rates: a JSON file, or a run whose metrics to use."),
    ] = None,
    mean_tokens: Annotated[
        float | None, typer.Option("--mean-tokens", min=1, help="Expected mean length of a completion.")
    ] = None,
    price: Annotated[float | None, typer.Option("--price", min=0, help="Of a GPU-hour, in any currency.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the table.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Measure small learner ranks on this machine beside their prediction.")
    ] = False,
    scale_study: Annotated[
        bool, typer.Option("--scale-study", help="Print the table of docs/scaling.md: 1.5B to 72B on up to 1,000 GPUs.")
    ] = False,
    fit: Annotated[
        Path | None, typer.Option("--fit", help="--scale-study: output of `quorum bench scale` to fit the driver to.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="--check: of the tokens; 0 if left out.")] = None,
) -> None:
    """Say what a run takes and how long a step will be, from its configuration and the model's config.json.

    No weights are loaded and nothing is started, except with --check. Rates that are not given are estimates.
    """
    _refuse_strangers(locals())
    if check:
        from benchmarks.memory import run_check

        print(run_check(seed or 0))
        return
    if scale_study:
        from orchestration.planning.scale_fit import fit_of_file, published
        from orchestration.planning.scale_study import study

        print(study(fit_of_file(fit) if fit else published()))
        return
    if config is None:
        raise ConfigError("nothing to plan: name a preset or a YAML file, or give --check or --scale-study")
    from orchestration.planning.devices import find_device
    from orchestration.planning.estimate import Hardware, make_estimate
    from orchestration.planning.rates import read_rates
    from orchestration.planning.shape import read_shape
    from orchestration.planning.table import render
    from orchestration.registries import load_run_config

    device = find_device(device_name or "h100")
    loaded = load_run_config(config, overrides or [])
    hardware = Hardware(
        gpus=gpus or 8,
        gpu_bytes=1e9 * (gpu_memory or device.memory_gb),
        gpus_per_node=gpus_per_node or 8,
        device=device,
        price=price,
    )
    given = read_rates(rates) if rates else None
    shape = read_shape(loaded.model)
    made = make_estimate(loaded, shape, hardware, given=given, mean_completion_tokens=mean_tokens)
    print(json.dumps(made.as_json(), indent=2) if as_json else render(made))


def _refuse_strangers(values: Mapping[str, Any]) -> None:
    """Options that the chosen mode has no use for are refused by name; `values` are those of `plan`'s parameters."""
    spelled = {"config": "CONFIG", "overrides": "overrides", "as_json": "--json"}
    given = {spelled.get(name, f"--{name.replace('_', '-')}") for name, value in values.items() if _is_given(value)}
    mode = next((mode for mode in OWN if mode in given), None)
    others = {option for options in OWN.values() for option in options}
    wrong = given - {mode, *OWN[mode]} if mode is not None else given & others
    if not wrong:
        return
    listed = ", ".join(sorted(wrong))
    if mode is not None:
        raise ConfigError(f"`quorum plan {mode}` does not take {listed}; it takes {', '.join(OWN[mode])}")
    needed = [other for other, options in OWN.items() if wrong & set(options)]
    raise ConfigError(f"{listed}: only with `quorum plan {'` and `quorum plan '.join(needed)}`")


def _is_given(value: object) -> bool:
    """Flags that are not set are False, other options that are left out None."""
    return value is not None and value is not False and value != []
