"""What the adapter calls in vLLM, and what vLLM declares: both read from source, so that no vLLM need be imported.

`python -m tests.contracts.vllm_signatures PACKAGE > tests/data/vllm-VERSION.json` writes a version's fixture from the
`vllm` folder of its unpacked wheel.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DECLARED = {
    "AsyncLLM": "v1/engine/async_llm.py",
    "EngineCoreOutputs": "v1/engine/__init__.py",
    "SamplingParams": "sampling_params.py",
    "_PromptOptions": "inputs/llm.py",
    "TokensPrompt": "inputs/llm.py",
    "RequestState": "v1/engine/output_processor.py",
    "OutputProcessor": "v1/engine/output_processor.py",
    "SlowIncrementalDetokenizer": "v1/engine/detokenizer.py",
    "AsyncMPClient": "v1/engine/core_client.py",
    "RequestOutput": "outputs.py",
    "CompletionOutput": "outputs.py",
    "Worker": "v1/worker/gpu_worker.py",
    "WeightTransferEngine": "distributed/weight_transfer/base.py",
    "WeightTransferEngineFactory": "distributed/weight_transfer/factory.py",
}
"""Classes that the adapter touches -> where vLLM declares them."""


@dataclass(frozen=True)
class Call:
    """One call that the adapter makes."""

    method: str
    num_positional: int
    keywords: tuple[str, ...]
    line: int


def declarations(package: Path) -> dict[str, dict[str, Any]]:
    """Class -> {"methods": name -> parameters, "attributes": fields and what is set on self, "abstract": methods}."""
    found = {}
    for name, path in DECLARED.items():
        tree = ast.parse((package / path).read_text(encoding="utf-8"))
        node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
        functions = [n for n in node.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
        fields = {n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
        own = {
            n.attr
            for function in functions
            for n in ast.walk(function)
            if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "self"
        }
        methods = {f.name: parameters(f.args) for f in functions}
        abstract = [f.name for f in functions if any("abstractmethod" in ast.unparse(d) for d in f.decorator_list)]
        found[name] = {"methods": methods, "attributes": sorted(fields | own | set(methods)), "abstract": abstract}
    return found


def parameters(arguments: ast.arguments) -> str:
    """As written, without types and with None for every default."""
    bare = ast.parse(f"def f({ast.unparse(arguments)}): ...").body[0]
    assert isinstance(bare, ast.FunctionDef)
    for argument in (*bare.args.posonlyargs, *bare.args.args, *bare.args.kwonlyargs):
        argument.annotation = None
    for rest in (bare.args.vararg, bare.args.kwarg):
        if rest is not None:
            rest.annotation = None
    nothing = ast.Constant(None)
    bare.args.defaults = [nothing for _ in bare.args.defaults]
    bare.args.kw_defaults = [None if default is None else nothing for default in bare.args.kw_defaults]
    return ast.unparse(bare.args)


def signature(declared: str) -> inspect.Signature:
    """Of parameters as `parameters` writes them."""
    scope: dict[str, Any] = {}
    exec(f"def f({declared}): ...", scope)
    return inspect.signature(scope["f"])


def calls(source: Path, receivers: tuple[str, ...]) -> Iterator[Call]:
    """Calls of methods on any of the given expressions, such as `self._llm`."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and ast.unparse(node.func.value) in receivers
        ):
            keywords = tuple(word.arg for word in node.keywords if word.arg is not None)
            yield Call(node.func.attr, len(node.args), keywords, node.lineno)


def worker_calls(source: Path) -> Iterator[Call]:
    """What the adapter has every worker do: `self._rpc("name", {"keyword": ...}, ...)` and `collective_rpc("name")`."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
            continue
        if node.func.attr in ("_rpc", "collective_rpc") and isinstance(node.args[0], ast.Constant):
            given = next((argument for argument in node.args[1:] if isinstance(argument, ast.Dict)), ast.Dict([], []))
            keywords = tuple(key.value for key in given.keys if isinstance(key, ast.Constant))
            yield Call(str(node.args[0].value), 0, keywords, node.lineno)


if __name__ == "__main__":
    json.dump(declarations(Path(sys.argv[1])), sys.stdout, indent=1)
    sys.stdout.write("\n")
