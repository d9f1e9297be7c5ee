"""The schema: every field is described, and read somewhere outside `configs`."""

import re
from pathlib import Path

from configs.problems import field_names, section_at
from configs.schema import RunConfig

ROOT = Path(__file__).parents[3]
STAGES = ("quorum", "data", "rollout", "voting", "learner", "orchestration", "benchmarks")


def leaves() -> list[str]:
    names = list(field_names())
    return [name for name in names if not any(other.startswith(name + ".") for other in names)]


def test_every_field_says_what_it_means() -> None:
    for name in field_names():
        parent, _, leaf = name.rpartition(".")
        section = section_at(parent.split(".") if parent else [])
        assert section is not None
        if section is not RunConfig:
            assert section.model_fields[leaf].description, name


def test_every_field_is_read_outside_configs() -> None:
    source = "\n".join(path.read_text() for stage in STAGES for path in sorted((ROOT / stage).rglob("*.py")))
    attributes = set(re.findall(r"\.([a-z_][a-z0-9_]*)\b", source))
    unread = [name for name in leaves() if name.rpartition(".")[2] not in attributes]
    assert unread == [], f"fields nobody reads (delete them or use them): {unread}"
