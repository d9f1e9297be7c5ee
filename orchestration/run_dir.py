"""The run directory: made once, locked while a driver lives, every file in it written atomically."""

from __future__ import annotations

import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from configs.load import dump_config, load_config
from configs.schema import RunConfig
from orchestration.jobs.supervisor import SUBMITTED_AS
from orchestration.storage import fsync_dir, storage_errors
from quorum import __version__
from quorum.errors import ConfigError, DataError, Interrupted, ResourceError, StageError, StoppedByGuard

SUBDIRECTORIES = ("groups", "audit", "checkpoints")


def write_atomic(path: Path, text: str) -> None:
    """Write a whole file beside its place, fsync it, rename it. Raises StorageError."""
    with storage_errors(path):
        beside = path.with_name(f".{path.name}.tmp")
        with open(beside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        fsync_dir(path.parent)


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Content of run.json: who this run is and who drives it now."""

    run_id: str
    namespace: str
    incarnation: int
    """How often the learner was started again on this run, by a new driver or after a rank failed; 0 the first time."""
    branch: int
    address: str
    """Of the run's Ray: HOST:PORT once its actors are started, before that `cluster.address`."""
    driver_pid: int
    started_at: str
    quorum_version: str
    state: str = "running"
    """running, done, interrupted, failed or stopped (by the guard); running without a driver: it was killed."""
    message: str = ""
    """Why it ended, unless it is done."""
    prompts_hash: str = ""
    """`PromptSet.content_hash` of the training prompts: a run is resumed with the same ones. Empty: an evaluation."""
    submitted_as: str = ""
    """Name of the submitted run whose job drives it; empty where none does."""

    def way_on(self, path: Path) -> str:
        """The command that goes on with the run in `path`."""
        return f"quorum resume {self.submitted_as}" if self.submitted_as else f"quorum train --resume {path}"

    @property
    def rank_namespace(self) -> str:
        """Of the learner ranks of this incarnation; `namespace` is the one of its driver's other actors."""
        return _namespace(self.run_id, self.incarnation)


class RunDir:
    """An open, locked run directory."""

    def __init__(self, path: Path, config: RunConfig, info: RunInfo, lock: IO[str]) -> None:
        self.path, self.config, self.info = path, config, info
        self._lock = lock

    @classmethod
    def create(cls, config: RunConfig, prompts_hash: str = "") -> RunDir:
        """Make a new run directory. Raises ConfigError when it exists, ResourceError when it cannot be made."""
        path = config.run_path.absolute()
        if path.exists():
            raise ConfigError(
                f"run directory {path} exists: choose another with run.dir=..., "
                f"or continue that run with `quorum train --resume {path}`"
            )
        try:
            for name in SUBDIRECTORIES:
                (path / name).mkdir(parents=True)
        except OSError as exc:
            raise ResourceError(
                f"run directory {path} cannot be made ({exc.strerror or exc}): nothing was started; choose another "
                "with run.dir=..., or make its parent directory writable"
            ) from exc
        lock = _lock(path)
        run_id = uuid.uuid4().hex[:12]
        info = _info(run_id, 0, 0, config.cluster.address, prompts_hash)
        run = cls(path, config, info, lock)
        write_atomic(path / "config.yaml", dump_config(config))
        run._write_info()
        return run

    @classmethod
    def resume(cls, path: Path, config: RunConfig) -> RunDir:
        """Open an existing run for a new incarnation, with a configuration that may differ in operational fields."""
        path = path.absolute()
        lock = _lock(path)
        old = read_info(path)
        info = _info(old.run_id, old.incarnation + 1, old.branch, config.cluster.address, old.prompts_hash)
        run = cls(path, config, info, lock)
        write_atomic(path / "config.yaml", dump_config(config))
        run._write_info()
        return run

    def begin_incarnation(self) -> None:
        """The learner starts again under the same driver: what is written from now on supersedes what was before."""
        self.info = replace(self.info, incarnation=self.info.incarnation + 1)
        self._write_info()

    def begin_branch(self, branch: int) -> None:
        """The guard went back to an earlier step: what is written from now on, with other seeds, supersedes it."""
        self.info = replace(self.info, branch=branch, incarnation=self.info.incarnation + 1)
        self._write_info()

    def set_address(self, address: str) -> None:
        """Record where the run's Ray is reached."""
        self.info = replace(self.info, address=address)
        self._write_info()

    def set_state(self, state: str, message: str = "") -> None:
        """Record how the run stands."""
        self.info = replace(self.info, state=state, message=message)
        self._write_info()

    @contextmanager
    def recording_end(self) -> Iterator[None]:
        """Record how the body ended, and let another driver take the run."""
        try:
            yield
            self.set_state("done")
        except Interrupted as exc:
            named = Interrupted(exc.signum, self.info.way_on(self.path) if self.info.prompts_hash else None)
            self.set_state("interrupted", str(named))
            raise named from exc
        except StoppedByGuard as exc:
            self.set_state("stopped", str(exc))
            raise
        except BaseException as exc:
            self.set_state("failed", f"{type(exc).__name__}: {exc}")
            if isinstance(exc, StageError) and self.info.prompts_hash:
                exc.add_note(f"what was finished is kept: `{self.info.way_on(self.path)}`")
            raise
        finally:
            self.close()

    def _write_info(self) -> None:
        write_atomic(self.path / "run.json", json.dumps(asdict(self.info), indent=2) + "\n")

    def close(self) -> None:
        """Let another driver take the run."""
        self._lock.close()


def resolve_run(run: str) -> Path:
    """Directory of RUN, a path or the name of a directory under runs/. Raises DataError when there is none."""
    for candidate in (Path(run), Path("runs") / run):
        if (candidate / "run.json").is_file():
            return candidate.absolute()
    known = sorted(p.parent.name for p in Path("runs").glob("*/run.json"))
    hint = f"; runs here: {', '.join(known[:8])}" if known else ""
    raise DataError(f"no run at {run}: expected a directory with run.json, or a name under runs/{hint}")


def is_driven(path: Path) -> bool:
    """Whether a driver holds the run's lock now, on any machine that shares the directory."""
    try:
        with open(path / "lock", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def read_config(path: Path) -> RunConfig:
    """The resolved configuration a run directory was written with."""
    file = path / "config.yaml"
    if not file.is_file():
        raise DataError(f"run directory {path} has no config.yaml: it was not made by `quorum train`")
    return load_config(file)


def read_info(path: Path) -> RunInfo:
    """Content of run.json. Raises DataError when it is unreadable."""
    try:
        fields: dict[str, Any] = json.loads((path / "run.json").read_text(encoding="utf-8"))
        return RunInfo(**fields)
    except (OSError, ValueError, TypeError) as exc:
        raise DataError(f"run directory {path} has no readable run.json ({exc})") from exc


def _info(run_id: str, incarnation: int, branch: int, address: str, prompts_hash: str) -> RunInfo:
    started_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return RunInfo(
        run_id=run_id,
        namespace=_namespace(run_id, incarnation),
        incarnation=incarnation,
        branch=branch,
        address=address,
        driver_pid=os.getpid(),
        started_at=started_at,
        quorum_version=__version__,
        prompts_hash=prompts_hash,
        submitted_as=os.environ.get(SUBMITTED_AS, ""),
    )


def _namespace(run_id: str, incarnation: int) -> str:
    """One per incarnation: after a kill the names of the one before may be taken for some seconds."""
    return f"quorum-{run_id}-{incarnation}"


def _lock(path: Path) -> IO[str]:
    """Take the run's lock, or raise ResourceError naming the holder. The kernel drops it when its holder dies."""
    with storage_errors(path / "lock"):
        file = open(path / "lock", "a+", encoding="utf-8")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise ResourceError(f"run {path} is being driven by {holder}; stop it first") from exc
    file.truncate(0)
    file.write(f"pid {os.getpid()}\n")
    file.flush()
    return file
