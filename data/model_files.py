"""A base model's files: its tokenizer, and the facts that a plan needs, checked before anything starts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from configs.schema import ModelSection
from quorum.deadline import run_within
from quorum.errors import DataError

WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tokenizer_config.json")
"""Any of these counts as a tokenizer."""
HUB_SECONDS = 5.0
"""For the hub to answer at all."""
PLACEHOLDER = "model"
"""`model.path` of presets whose model comes from a command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a plan needs to know of a model, read without loading it."""

    path: str
    model_type: str
    max_positions: int | None
    """Longest context in tokens; None where the configuration states no limit."""
    vocab_size: int
    num_attention_heads: int | None
    """Must be divisible by the tensor-parallel size; None for models without heads."""
    num_parameters: int | None
    """Tensor elements on disk; None for a hub name or weights that are not safetensors."""
    has_chat_template: bool | None
    """Whether the directory carries one; None for a hub name."""


def load_tokenizer(model: ModelSection) -> Any:
    """The model's own tokenizer.

    Raises:
        DataError: no such directory or hub name, no tokenizer in it, or an unreadable one.
    """
    _require_there(model)
    if Path(model.path).is_dir():
        _require_tokenizer_files(Path(model.path))
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except Exception as exc:  # tokenizers raises bare Exception for a damaged file.
        raise DataError(f"{model.path}: the tokenizer cannot be loaded: {_one_line(exc)}") from exc


def check_model_dir(model: ModelSection) -> ModelFacts:
    """Check that a model can be loaded, and read its facts. Reads headers only for a directory.

    Raises:
        DataError: no such model; a directory without configuration, weights or tokenizer; a weight file cut
            short; a configuration without a vocabulary size.
    """
    _require_there(model)
    directory = Path(model.path)
    if not directory.is_dir():
        return _facts(model, _hub_config(model), None, None)
    config = _read_json(directory / "config.json", "a model directory needs its config.json")
    _require_tokenizer_files(directory)
    num_parameters = _count_parameters(directory)
    return _facts(model, config, num_parameters, _has_chat_template(directory))


def _require_there(model: ModelSection) -> None:
    """A path that cannot be a hub name must be a directory."""
    path = Path(model.path)
    if path.is_dir():
        return
    if model.path == PLACEHOLDER:
        raise DataError(
            f"model.path is {PLACEHOLDER!r}, a placeholder: this preset gets its model from a command (`quorum eval`, "
            "`quorum bench`); set model.path=DIRECTORY or a hub name, or use another preset"
        )
    if path.exists():
        raise DataError(f"{model.path}: model.path is a file; give the directory that holds the model")
    num_slashes = model.path.count("/")
    is_beside_others = num_slashes == 1 and path.parent.is_dir()
    if model.path.startswith((".", "/", "~")) or num_slashes > 1 or is_beside_others:
        raise DataError(f"{model.path}: no such model directory (model.path), and it is no hub name (OWNER/NAME)")


def _require_tokenizer_files(directory: Path) -> None:
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        raise DataError(
            f"{directory}: no tokenizer in the model directory (looked for {', '.join(TOKENIZER_FILES)}); "
            "copy the base model's tokenizer files into it"
        )


def _count_parameters(directory: Path) -> int | None:
    """Elements of all safetensors files, or None for other weights.

    Raises:
        DataError: no weights, or a file that its own header calls too short.
    """
    if not any(file for pattern in WEIGHT_PATTERNS for file in directory.glob(pattern)):
        raise DataError(f"{directory}: no weights in the model directory (looked for {', '.join(WEIGHT_PATTERNS)})")
    _require_all_shards(directory)
    files = sorted(directory.glob("*.safetensors"))
    return sum(map(_count_safetensors, files)) if files else None


def _require_all_shards(directory: Path) -> None:
    for index in sorted(directory.glob("*.index.json")):
        weight_map = _read_json(index, "").get("weight_map", {})
        missing = sorted({name for name in weight_map.values() if not (directory / name).is_file()})
        if missing:
            raise DataError(
                f"{directory}: weight file {missing[0]} is missing ({len(missing)} of {index.name}'s files)"
            )


def _count_safetensors(file: Path) -> int:
    """Elements in one file, from its header: 8 bytes of length, then JSON with shapes and offsets."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        header_size = int.from_bytes(stream.read(8), "little")
        if size < 8 or header_size > size - 8:
            raise DataError(f"{file}: not a whole safetensors file ({size:,} bytes)")
        try:
            header = json.loads(stream.read(header_size))
        except ValueError as exc:
            raise DataError(f"{file}: not a safetensors file: its header is not JSON") from exc
    tensors = [entry for name, entry in header.items() if name != "__metadata__"]
    wanted = 8 + header_size + max((entry["data_offsets"][1] for entry in tensors), default=0)
    if size < wanted:
        raise DataError(f"{file}: cut short: {size:,} bytes, its header says {wanted:,}; copy it again")
    return sum(math.prod(entry["shape"]) for entry in tensors)


def _has_chat_template(directory: Path) -> bool:
    if (directory / "chat_template.jinja").is_file():
        return True
    settings = directory / "tokenizer_config.json"
    return settings.is_file() and bool(_read_json(settings, "").get("chat_template"))


def require_hub(model: ModelSection) -> None:
    """Say within seconds that the hub is not reached: its own client tries again for most of a minute.

    A directory or a model of the local cache needs no hub, and offline mode asks none.

    Raises:
        DataError: the model is neither here nor the hub reached.
        ValueError: it can be no hub name.
    """
    if Path(model.path).is_dir():
        return
    try:
        from huggingface_hub import constants, try_to_load_from_cache
    except ImportError:  # the base install: whoever loads the model says what is missing
        return
    if constants.HF_HUB_OFFLINE:
        return
    if isinstance(try_to_load_from_cache(model.path, "config.json", revision=model.revision), str):
        return
    try:
        run_within(HUB_SECONDS, lambda: _ask_head(constants.ENDPOINT), "an answer of the hub")
    except OSError as exc:
        raise DataError(
            f"{model.path}: no such model directory here (model.path), and the hub is not reached at "
            f"{constants.ENDPOINT} ({_one_line(exc)}); give the directory of a downloaded model"
        ) from exc


def _ask_head(url: str) -> None:
    """Raises OSError when nobody answers there; any answer will do."""
    try:
        urlopen(Request(url, method="HEAD"), timeout=HUB_SECONDS).close()
    except HTTPError as exc:
        exc.close()


def _hub_config(model: ModelSection) -> Mapping[str, Any]:
    from transformers import AutoConfig

    try:
        require_hub(model)
        config = AutoConfig.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError, ImportError) as exc:
        raise DataError(
            f"{model.path}: neither a model directory here nor a model that the hub gives out: {_one_line(exc)}"
        ) from exc
    return dict(config.to_dict())


def _facts(
    model: ModelSection, config: Mapping[str, Any], num_parameters: int | None, has_chat_template: bool | None
) -> ModelFacts:
    text = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    positions = text.get("max_position_embeddings", text.get("n_positions"))
    heads = text.get("num_attention_heads", text.get("n_head"))
    vocab_size = text.get("vocab_size")
    if not isinstance(vocab_size, int) or vocab_size < 1:
        raise DataError(f"{model.path}: config.json gives no vocab_size; is this a causal language model?")
    return ModelFacts(
        path=model.path,
        model_type=str(config.get("model_type", "unknown")),
        max_positions=positions if isinstance(positions, int) else None,
        vocab_size=vocab_size,
        num_attention_heads=heads if isinstance(heads, int) else None,
        num_parameters=num_parameters,
        has_chat_template=has_chat_template,
    )


def _read_json(file: Path, hint: str) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError as exc:
        raise DataError(f"{file.parent}: no {file.name}; {hint}") from exc
    except (OSError, ValueError) as exc:
        raise DataError(f"{file}: cannot be read: {_one_line(exc)}") from exc
    if not isinstance(value, dict):
        raise DataError(f"{file}: must hold a JSON object, got {type(value).__name__}")
    return value


def _one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split()) or type(exc).__name__
