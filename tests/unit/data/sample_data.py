"""Small data files and tokenizers that the data tests read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from configs.schema import DataSection, DataSource

ROWS = [{"prompt": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(5)]
VERL_ROWS = [
    {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"What is {n} + {n}?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": str(2 * n)},
        "extra_info": {"index": n, "split": "train"},
    }
    for n in range(5)
]


class LetterTokenizer:
    """Tokenizer of one token per character, with `<s>` in front when special tokens are asked for."""

    chat_template: str | None = None

    def __call__(self, texts: list[str], add_special_tokens: bool = True) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1] * add_special_tokens + [ord(c) for c in text] for text in texts]}


class ChatTokenizer(LetterTokenizer):
    """As above, with a chat template written in Python."""

    chat_template = "<role>content"

    def apply_chat_template(self, turns: list[dict[str, str]], tokenize: bool, add_generation_prompt: bool) -> str:
        assert not tokenize
        return "".join(f"<{t['role']}>{t['content']}" for t in turns) + "<assistant>" * add_generation_prompt


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def data_section(**changes: Any) -> DataSection:
    return DataSection(train=(DataSource(path="unused.jsonl"),), **changes)
