"""Ray's job server, asked for runs by name. Every call is bounded, every failure says what to do."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from orchestration.jobs.names import submission_id, unknown
from orchestration.live_run import use_token
from quorum.deadline import run_within
from quorum.errors import ConfigError, DataError, ResourceError

T = TypeVar("T")
CALL_SECONDS, SUBMIT_SECONDS = 30.0, 600.0
"""For an answer, and for a working directory to be uploaded."""
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
NAME, RUN, WORDS, NUMBER = "quorum_name", "quorum_run", "quorum_words", "quorum_number"
DEADLINES = "quorum_deadlines"
"""Keys of a job's metadata: name, run directory, `train`'s words as JSON, number of the submission, and as JSON the
deadlines in seconds that a driver told to stop may use up."""
ENDED = ("succeeded", "failed", "stopped")
SUPERVISOR = ("python", "-m", "orchestration.jobs.supervisor")
NOT_UPLOADED = ("/runs/", "*.env", ".env.*", ".netrc", ".aws/", "*.pem", "*.key")
"""Of a working directory: runs, and where secrets are kept; what .gitignore names is left out as well."""
_LOST = ("JOB_SUPERVISOR_ACTOR_DIED", "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE")
_KILLED = 137
_RAY_LINES = re.compile(r"^.* job_manager\.py:\d+ -- (Runtime env is setting up|Running entrypoint).*(\n|\Z)", re.M)
"""Ray's own at the head of each log: they say nothing of the run."""
_SERVER_ERROR = re.compile(r"[^:]*status code 5\d\d")


@dataclass(frozen=True, slots=True)
class Submission:
    """What is sent to the cluster for one run."""

    name: str
    run: str
    """Run directory, absolute."""
    words: tuple[str, ...]
    """CONFIG and overrides of `train`."""
    retries: int
    """How often a driver that died is started again by the job itself."""
    working_dir: str | None
    """Uploaded for driver and actors; None: the nodes have Quorum and the configuration."""
    resume: bool = False
    """The run may have been started before; the overrides among `words` change how it goes on."""
    again: bool = False
    """It was submitted before with these words, which count only if it never began."""
    overrides: tuple[str, ...] = ()
    """For the resumed run."""
    env: Mapping[str, str] = field(default_factory=dict)
    deadlines: Mapping[str, float] = field(default_factory=dict)
    """That the time to stop was made of, in seconds; for `Job.deadlines`."""
    driver_cpus: float = 0.0
    """That the supervisor takes of a node: with any it may be placed on every node, with none it is on the head."""

    @property
    def entrypoint(self) -> str:
        """The shell command that supervises the run."""
        sets = [f"--set={override}" for override in self.overrides]
        known = ["--resume"] if self.resume else ["--again"] if self.again else []
        options = ["--run", self.run, "--name", self.name, "--retries", str(self.retries), *known, *sets]
        return shlex.join([*SUPERVISOR, *options, "--", *self.words])


@dataclass(frozen=True, slots=True)
class Job:
    """One submission of a run, as Ray tells it."""

    id: str
    name: str
    run: str
    words: tuple[str, ...]
    number: int
    state: str
    """pending, running, succeeded, failed or stopped"""
    message: str
    error: str
    """Ray's kind of error; empty without one."""
    code: int | None
    """Exit code of the entry point."""
    started: float
    """Unix time in seconds."""
    ended: float | None
    node: str
    """Id of the node that the driver is on; empty before it starts."""
    working_dir: str | None
    """URI of what was uploaded."""
    deadlines: Mapping[str, float]
    """Of the run, in seconds, those that `quorum stop` waits for; empty where they were not sent."""

    @property
    def is_live(self) -> bool:
        return self.state not in ENDED

    @property
    def end(self) -> str:
        """How it ended, to be put after the run's name: "has failed"."""
        return "was stopped" if self.state == "stopped" else f"has {self.state}"

    @property
    def is_lost(self) -> bool:
        """Whether supervisor and driver are gone with their node, or were killed together."""
        return self.state == "failed" and (self.error in _LOST or self.code in (_KILLED, -9))

    @property
    def exit_code(self) -> int:
        """Of the run, as `quorum train` would have given it: 143 after `stop`, 5 when it was lost."""
        if self.state == "stopped":
            return 143
        if self.code is not None and self.code >= 0:
            return self.code
        return {"succeeded": 0}.get(self.state, 5)


class Jobs:
    """The submitted runs of a cluster."""

    def __init__(self, address: str | None = None) -> None:
        """Connect.

        Args:
            address: http://HOST:8265 of the cluster's dashboard; None takes RAY_API_SERVER_ADDRESS or RAY_ADDRESS.

        Raises:
            ConfigError: there is no address.
            ResourceError: nobody answers there, or Ray's token is missing or wrong.
        """
        self.address = _address(address)
        use_token()
        with _without_variables(address is not None):
            self._client = self._ask(lambda: _client(self.address))

    def submit(self, wanted: Submission) -> Job:
        """Start a run. Raises ConfigError when one of the same name or in the same directory is not over."""
        before = self.all()
        for job in before:
            if job.name == wanted.name or job.run == wanted.run:
                self.require_over(job)
        number = 1 + max((job.number for job in before if job.name == wanted.name), default=0)
        metadata = {NAME: wanted.name, RUN: wanted.run, WORDS: json.dumps(wanted.words), NUMBER: str(number)}
        metadata[DEADLINES] = json.dumps(dict(wanted.deadlines))
        return self._send(
            submission_id(wanted.name, number),
            wanted.entrypoint,
            metadata,
            working_dir=wanted.working_dir,
            env=wanted.env,
            cpus=wanted.driver_cpus,
        )

    def require_over(self, job: Job) -> None:
        """Raise ConfigError where a submission is not over."""
        if job.is_live:
            raise ConfigError(
                f"run {job.name!r} is {job.state} at {self.address} (run directory {job.run}): follow it with "
                f"`quorum logs {job.name} --follow`, end it with `quorum stop {job.name}`, or choose another "
                "--name and run.dir"
            )

    def run_command(self, job: Job, entrypoint: str, label: str) -> Job:
        """Start a command of `quorum` on the cluster beside a live run, with the run's own code.

        It is in no list; what is returned has the run's name all the same.
        """
        new_id = f"{job.id}-{label}-{os.urandom(4).hex()}"
        sent = self._send(new_id, entrypoint, {}, working_dir=job.working_dir, env={}, cpus=0)
        return replace(sent, name=job.name, run=job.run)

    def _send(
        self,
        new_id: str,
        entrypoint: str,
        metadata: dict[str, str],
        *,
        working_dir: str | None,
        env: Mapping[str, str],
        cpus: float,
    ) -> Job:
        environment: dict[str, Any] = {"env_vars": dict(env)} if env else {}
        if working_dir is not None:
            environment["working_dir"] = working_dir
            if "://" not in working_dir:
                environment["excludes"] = list(NOT_UPLOADED)
        self._ask(
            lambda: self._client.submit_job(
                entrypoint=entrypoint,
                submission_id=new_id,
                runtime_env=environment,
                metadata=metadata,
                entrypoint_num_cpus=cpus or None,
            ),
            SUBMIT_SECONDS,
        )
        return self.job(new_id)

    def all(self) -> list[Job]:
        """Submissions of runs, oldest first; other jobs of the cluster are left out."""
        found = [_job(details) for details in self._ask(self._client.list_jobs)]
        return sorted((job for job in found if job.name), key=lambda job: (job.started, job.number))

    def of_name(self, name: str) -> list[Job]:
        """Submissions of one run, oldest first. Raises ConfigError with the nearest names when there are none."""
        every = self.all()
        found = sorted((job for job in every if job.name == name), key=lambda job: job.number)
        if not found:
            raise unknown(name, (job.name for job in every), self.address)
        return found

    def job(self, job_id: str) -> Job:
        """How a submission stands."""
        return _job(self._ask(lambda: self._client.get_job_info(job_id)))

    def log(self, job_id: str) -> str:
        """All that a submission has written so far. ResourceError too while its node is not reached."""
        return _RAY_LINES.sub("", str(self._ask(lambda: self._client.get_job_logs(job_id))))

    def stop(self, job_id: str) -> bool:
        """Have a submission end; does not wait. Returns whether it was running."""
        return bool(self._ask(lambda: self._client.stop_job(job_id)))

    def _ask(self, call: Callable[[], T], seconds: float = CALL_SECONDS) -> T:
        import ray.exceptions

        try:
            return run_within(seconds, call, "an answer of Ray's job server")
        except ray.exceptions.AuthenticationError as exc:
            raise ResourceError(
                f"Ray's job server at {self.address} asks for its token ({_first_line(exc)}): set RAY_AUTH_MODE=token "
                "and RAY_AUTH_TOKEN_PATH (a file) or RAY_AUTH_TOKEN in the environment, by default ~/.ray/auth_token"
            ) from exc
        except (ConnectionError, OSError, TimeoutError) as exc:
            raise ResourceError(
                f"Ray's job server at {self.address} is not reached ({_first_line(exc)}): give --address "
                "http://HEAD:8265 of a Ray with its dashboard (`ray start --head`), through `kubectl port-forward "
                "service/NAME-head-svc 8265` on Kubernetes"
            ) from exc
        except (RuntimeError, ValueError) as exc:
            raise _refused(self.address, exc) from exc


def _refused(address: str, exc: Exception) -> Exception:
    text = " ".join(str(exc).split())
    if "already exists" in text:
        return ConfigError(f"the same run was submitted to {address} at the same time; `quorum status` shows it")
    if _SERVER_ERROR.match(text):
        return ResourceError(
            f"Ray's job server at {address} failed ({text[:600]}): try again; if it stays so, see dashboard.log in "
            "/tmp/ray/session_latest/logs of the head node"
        )
    return DataError(f"Ray's job server at {address} refused: {text[:600]}")


def _address(given: str | None) -> str:
    found = given or next((value for name in ADDRESS_VARIABLES if (value := os.environ.get(name))), "")
    if not found:
        raise ConfigError(
            "no cluster to ask: give --address http://HEAD:8265, or set RAY_ADDRESS; `quorum train` needs none"
        )
    return found if "://" in found or found == "auto" or not given else f"http://{found}"


@contextmanager
def _without_variables(is_given: bool) -> Iterator[None]:
    """Ray lets its variables overrule an address that was given; a command line means what it says."""
    taken = {name: os.environ.pop(name) for name in ADDRESS_VARIABLES if is_given and name in os.environ}
    try:
        yield
    finally:
        os.environ.update(taken)


def _client(address: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    for name in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env"):
        logging.getLogger(name).setLevel(logging.ERROR)  # ten lines on what was packed and left out
    return JobSubmissionClient(address)


def _job(details: Any) -> Job:
    metadata = details.metadata or {}
    return Job(
        id=details.submission_id or "",
        name=metadata.get(NAME, ""),
        run=metadata.get(RUN, ""),
        words=tuple(json.loads(metadata.get(WORDS, "[]"))),
        number=int(metadata.get(NUMBER, "0")),
        state=str(details.status.value).lower(),
        message=details.message or "",
        error=details.error_type or "",
        code=details.driver_exit_code,
        started=(details.start_time or 0) / 1000,
        ended=details.end_time / 1000 if details.end_time else None,
        node=details.driver_node_id or "",
        working_dir=(details.runtime_env or {}).get("working_dir"),
        deadlines=json.loads(metadata.get(DEADLINES, "{}")),
    )


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().splitlines()[0][:300] if str(exc).strip() else type(exc).__name__
