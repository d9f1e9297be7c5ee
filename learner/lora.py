"""Low-rank adapters (LoRA, arXiv 2106.09685) through peft: W + (alpha / rank) * B A, of which only A and B train.

The adapters are injected into the model in place. Whoever takes weights out of the policy sees the base model's own
names, with the adapters merged in; the trained weights themselves are never merged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from configs.learner_sections import LoraSection
from learner.zero import ZeroEngine, shape_of
from quorum.errors import DataError
from quorum.types import AdapterMerge, TensorMeta
from quorum.wire import adapter_names, merge_adapter

if TYPE_CHECKING:
    from peft import LoraConfig

ADAPTER = "default"
_BASE = ".base_layer"


def add_adapters(model: nn.Module, section: LoraSection) -> None:
    """Put adapters on a model's linear layers, in place, and freeze everything else. They change nothing at first.

    Raises:
        DataError: no layer is named so, or one of them is no linear layer.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import Linear, LoraLayer

    config = LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha,
        target_modules=sorted(section.target_modules) or "all-linear",
        task_type="CAUSAL_LM",
    )
    try:
        inject_adapter_in_model(config, model, ADAPTER)
    except ValueError as error:
        raise DataError(f"learner.lora.target_modules {list(section.target_modules)}: {error}") from error
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    others = sorted(name for name, layer in layers.items() if not isinstance(layer, Linear))
    if others:
        raise DataError(f"learner.lora.target_modules names {', '.join(others)}: only linear layers can have adapters")
    if getattr(model, "is_gradient_checkpointing", False):
        model.enable_input_require_grads()  # else the first checkpointed layer has no input with a gradient


@dataclass(frozen=True)
class Weight:
    """One weight of the model as samplers and exports know it."""

    name: str
    """In the base model."""
    shape: tuple[int, ...]
    sources: tuple[nn.Parameter, ...]
    """What has to be gathered to read it: the parameter, and the adapter's A and B."""
    scale: float = 0.0
    """alpha / rank."""
    is_transposed: bool = False
    """Whether the layer keeps its weight as [inputs, outputs]."""

    @torch.no_grad()
    def read(self) -> Tensor:
        """The weight while its sources are gathered: the parameter itself, or base and adapter summed in float32."""
        if len(self.sources) == 1:
            return self.sources[0].detach()
        base, a, b = (source.detach() for source in self.sources)
        return merge_adapter(base, a, b, self.scale, is_transposed=self.is_transposed)


def published_weights(model: nn.Module) -> list[Weight]:
    """All weights of a model, with or without adapters: the base model's names in its order, tied weights once."""
    adapters = _adapters(model)
    of_adapters = {id(part) for layer in adapters.values() for part in _parts(layer)}
    weights = []
    for name, parameter in model.named_parameters():
        if id(parameter) in of_adapters:
            continue
        layer_name, _, kind = name.rpartition(".")
        layer = adapters.get(layer_name.removesuffix(_BASE)) if kind == "weight" else None
        weights.append(
            Weight(
                base_name(name),
                shape_of(parameter),
                (parameter, *(_parts(layer) if layer else ())),
                scale=layer.scaling[ADAPTER] if layer else 0.0,
                is_transposed=bool(layer and layer.fan_in_fan_out),
            )
        )
    return weights


def adapters_alone(weights: Sequence[Weight]) -> list[Weight]:
    """The A and B matrices of published weights, each as a weight of its own."""
    return [
        Weight(name, shape_of(part), (part,))
        for weight in weights
        if len(weight.sources) > 1
        for name, part in zip(adapter_names(weight.name), weight.sources[1:], strict=True)
    ]


def plan_merges(weights: Sequence[Weight], dtype: torch.dtype) -> tuple[AdapterMerge, ...]:
    """How receivers make the published weights, in `dtype`, of adapters alone."""
    return tuple(
        AdapterMerge(
            TensorMeta(weight.name, name_of(dtype), weight.shape),
            name_of(weight.sources[0].dtype),
            weight.scale if len(weight.sources) > 1 else None,
            weight.is_transposed,
        )
        for weight in weights
    )


def name_of(dtype: torch.dtype) -> str:
    """A type's name without its prefix: "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def base_name(name: str) -> str:
    """Name in the base model of a parameter or buffer of the model with adapters."""
    return name.replace(_BASE, "")


def _adapters(model: nn.Module) -> dict[str, Any]:
    """Layers with adapters by name; none without peft."""
    if not hasattr(model, "peft_config"):
        return {}
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def _parts(layer: Any) -> tuple[nn.Parameter, nn.Parameter]:
    return layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight


class WithoutAdapters:
    """The base model inside a policy with adapters: reference of the KL penalty at no cost in memory."""

    def __init__(self, engine: ZeroEngine, model: nn.Module) -> None:
        self._engine = engine
        self._layers = list(_adapters(model).values())

    @torch.no_grad()
    def forward(self, *inputs: Any, **options: Any) -> Any:
        """The forward pass with every adapter off; a collective under ZeRO-3."""
        with self._off():
            return self._engine.forward(*inputs, **options)

    @contextlib.contextmanager
    def _off(self) -> Iterator[None]:
        # peft's enable_adapters() also sets requires_grad, which would unhook the parameters from the optimizer.
        for layer in self._layers:
            layer._disable_adapters = True
        try:
            yield
        finally:
            for layer in self._layers:
                layer._disable_adapters = False


def collect_adapter(model: nn.Module, engine: ZeroEngine, dtype: torch.dtype, *, keep: bool) -> dict[str, Tensor]:
    """The adapters on the host under peft's names. A collective under ZeRO-3; see `export.collect_state`."""
    state: dict[str, Tensor] = {}
    for name, layer in _adapters(model).items():
        with engine.gathered(_parts(layer)):
            if keep:
                for part, parameter in zip(("lora_A", "lora_B"), _parts(layer), strict=True):
                    copy = parameter.detach().to("cpu", dtype, copy=True)
                    state[f"base_model.model.{name}.{part}.weight"] = copy
    return state


def write_adapter(model: Any, state: dict[str, Tensor], base: str, directory: Path) -> None:
    """Write collected adapters as peft reads them.

    Args:
        model: with adapters.
        state: of `collect_adapter`.
        base: path or hub name of the model that the adapters belong on.
        directory: made if it is not there.
    """
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    save_file(state, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    config: LoraConfig = model.peft_config[ADAPTER]
    held = config.base_model_name_or_path, config.inference_mode, config.target_modules
    config.base_model_name_or_path, config.inference_mode = base, True
    config.target_modules = sorted(config.target_modules or ())
    try:
        config.save_pretrained(str(directory))
    finally:
        config.base_model_name_or_path, config.inference_mode, config.target_modules = held
