"""The objects that flow between Quorum's stages. Immutable; one class per arrow of the flow.

    Prompt -> [rollout] RolloutGroup -> [voting] Tally -> ScoredGroup -> [learner] TrainingBatch -> UpdateStats

Shapes: k = completions of one prompt (one group), T = tokens. Imports numpy only.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quorum.transfer import AdapterMerge as AdapterMerge
from quorum.transfer import TensorMeta as TensorMeta
from quorum.transfer import TransferInit as TransferInit
from quorum.transfer import WeightManifest as WeightManifest
from quorum.transfer import WeightReceipt as WeightReceipt
from quorum.transfer import WeightUpdate as WeightUpdate

Int32Array = NDArray[np.int32]
Float32Array = NDArray[np.float32]

COMPLETION_INDEX_BITS = 20
"""Low bits of a group's seed left for the completion index: completion i samples with seed + i."""


class Role(StrEnum):
    """What a group is for. Group ids count per (branch, role)."""

    TRAIN = "train"
    EVAL = "eval"
    TEACHER = "teacher"
    PROBE = "probe"
    LABEL = "label"


class Outcome(StrEnum):
    """What became of one completion's answer in the vote."""

    ANSWERED = "answered"
    UNPARSED = "unparsed"
    TRUNCATED = "truncated"
    TIMED_OUT = "timed_out"
    ERROR = "error"
    STOPPED = "stopped"
    """Ended before it answered, once the vote was decided without it; its agreement is unknown and counts as none."""


class EndState(StrEnum):
    """How a training group ended. Every admitted group ends exactly once."""

    TRAINED = "trained"
    NO_LABEL = "dropped:no_label"
    NO_SIGNAL = "dropped:no_signal"
    BELOW_THRESHOLD = "dropped:below_threshold"
    ABOVE_THRESHOLD = "dropped:above_threshold"
    KEEP_FRACTION = "dropped:keep_fraction"
    RELOCKED = "dropped:relocked"
    TOO_LONG = "dropped:too_long"
    VOTE_ONLY = "dropped:vote_only"
    QUARANTINED = "quarantined"


FinishReason = Literal["stop", "length", "abort"]


class GroupKey(NamedTuple):
    """Durable identity of a group: survives restarts, rollbacks and resumes."""

    branch: int
    role: Role
    group_id: int


class VersionSpan(NamedTuple):
    """Tokens of a completion from `start` on were sampled by policy `version`."""

    version: int
    start: int


def prompt_id_of(source: str, row_key: str) -> str:
    """blake2b-128 of (source, row key) as 32 hex digits: stable across resumes and row order."""
    return hashlib.blake2b(f"{source}\0{row_key}".encode(), digest_size=16).hexdigest()


def group_seed(run_seed: int, key: GroupKey) -> int:
    """Seed of a group's completion 0; completion i uses `group_seed + i`.

    Depends on the run's seed and the group's identity alone: never on time, position or sampler.
    The low COMPLETION_INDEX_BITS bits are zero, so neighbouring groups share no stream.

    Returns:
        A seed in [0, 2**63).
    """
    text = f"{run_seed}/{key.branch}/{key.role.value}/{key.group_id}".encode()
    bits = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
    return bits >> COMPLETION_INDEX_BITS << COMPLETION_INDEX_BITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a chat prompt."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One unlabeled prompt. It has no answer field: reference answers live in `data.references`.

    Produced by `data.prompts`, consumed by samplers.
    """

    prompt_id: str
    """32 hex digits, see `prompt_id_of`."""
    data_source: str
    """Name of the data set; metrics and evaluation are reported per data source."""
    token_ids: Int32Array
    """[T] rendered prompt, chat template and suffix applied."""
    text: str
    """The rendered prompt as text."""
    messages: tuple[Message, ...] = ()
    """The chat turns it was rendered from; empty for a plain-text prompt."""
    extractor: str | None = None
    """Name of the answer extractor for this prompt; None uses the configured one."""
    other_view: str | None = None
    """prompt_id of its paraphrase, or of what it paraphrases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSettings:
    """How a group's completions are drawn."""

    num_completions: int
    temperature: float
    top_p: float
    max_completion_tokens: int
    top_k: int = 0
    """0 turns top-k off."""
    stop: tuple[str, ...] = ()
    """Stop strings besides the end-of-text token; they stay out of the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRequest:
    """One group to generate: the unit of dispatch, retry and resume."""

    key: GroupKey
    prompt: Prompt
    sampling: SamplingSettings
    seed: int
    """Completion i samples with `seed + i`; see `group_seed`."""
    required_version: int
    """The policy version that the sampler must hold."""
    allows_newer: bool = False
    """Whether a sampler that holds a later version may draw it too, and weights may be swapped while it runs."""
    attempt: int = 0
    """How often a sampler was lost with it before."""
    indices: tuple[int, ...] | None = None
    """Completions to draw, of the `sampling.num_completions` that the group has; None draws all. A part of a split
    group: its RolloutGroup holds these completions alone, with their indices in the whole group."""
    vote_only: tuple[int, ...] = ()
    """Completions that may be stopped once the vote is decided; empty stops none."""
    voter: Any = None
    """Handle of a voting replica whose `decided` says so; None where none is asked."""

    @property
    def drawn(self) -> tuple[int, ...]:
        """Indices of the completions to draw."""
        return tuple(range(self.sampling.num_completions)) if self.indices is None else self.indices


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One answer of the model, token for token as sampled.

    `token_ids` includes the end-of-text token when the model produced it (finish_reason "stop"), and the
    loss covers it; `text` leaves special tokens out. A completion cut at the limit has finish_reason "length".
    """

    index: int
    token_ids: Int32Array
    """[T]"""
    text: str
    rollout_logprobs: Float32Array
    """[T] log-probability of each token under the distribution it was sampled from (after temperature and top-p)."""
    finish_reason: FinishReason
    """abort: stopped before its end, because its vote could no longer change anything; never trained on."""
    spans: tuple[VersionSpan, ...]
    """Policy versions by token; starts at token 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupScores:
    """What the policy itself makes of a group's completions, beyond the log-probabilities of their tokens."""

    entropies: tuple[float, ...]
    """[k] entropy of the token distributions, mean over a completion's tokens, nats"""
    self_certainties: tuple[float, ...]
    """[k] KL(uniform || token distribution), mean over a completion's tokens, nats (arXiv 2502.18581)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutGroup:
    """All completions of one prompt. Produced by a sampler; one object from birth to gradient."""

    group_id: int
    prompt_id: str
    branch: int
    role: Role
    data_source: str
    prompt_token_ids: Int32Array
    prompt_text: str
    completions: tuple[Completion, ...]
    """[k] in index order"""
    attempts: int = 1
    scores: GroupScores | None = None
    """Only while a vote rule that asks for them weighs its votes; not carried along."""

    @property
    def key(self) -> GroupKey:
        return GroupKey(self.branch, self.role, self.group_id)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled with the arrays of all completions as two: a group crosses three processes on its way."""
        from quorum.packing import packed

        return packed(self)

    def content_hash(self) -> str:
        """Hash of tokens and logprobs of all completions (16 hex digits): equal hashes, equal groups."""
        digest = hashlib.blake2b(digest_size=8)
        for completion in self.completions:
            digest.update(np.int64(len(completion.token_ids)).tobytes())
            digest.update(np.ascontiguousarray(completion.token_ids, dtype=np.int32).tobytes())
            digest.update(np.ascontiguousarray(completion.rollout_logprobs, dtype=np.float32).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What the driver learns of a finished group: scalars only, never tokens."""

    group_id: int
    sampler_id: str
    finish_counts: Mapping[str, int]
    """Completions by finish reason."""
    num_tokens: int
    """Completion tokens of the whole group."""
    num_prompt_tokens: int
    """Of the prompt, counted once."""
    num_prefilled_tokens: int
    """Prompt tokens really computed for this group: k prompts less what the prefix cache held."""
    versions: tuple[int, ...]
    """Policy versions that sampled it."""
    seconds: float
    """From the call until the last completion."""
    content_hash: str

    @classmethod
    def of(cls, group: RolloutGroup, *, sampler_id: str, num_prefilled_tokens: int, seconds: float) -> Receipt:
        """The receipt of a finished group."""
        completions = group.completions
        return cls(
            group_id=group.group_id,
            sampler_id=sampler_id,
            finish_counts=dict(Counter(completion.finish_reason for completion in completions)),
            num_tokens=sum(len(completion.token_ids) for completion in completions),
            num_prompt_tokens=len(group.prompt_token_ids),
            num_prefilled_tokens=num_prefilled_tokens,
            versions=tuple(sorted({span.version for completion in completions for span in completion.spans})),
            seconds=seconds,
            content_hash=group.content_hash(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RevealedLabel:
    """A label from outside the vote that the configuration allowed out. Only `data.references` makes one."""

    prompt_id: str
    answer: str
    provenance: str
    """Where it came from: "ground_truth", "table"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The first phase of a vote: answers of one group, clustered. Pays no reward.

    A jury's answers (a teacher's, those to a paraphrase, a revealed label) are clustered together with the group's own,
    so that agreement with the jury is membership of a cluster too.
    """

    group_id: int
    answers: tuple[str | None, ...]
    """[k] canonical answer of each completion; None abstains."""
    outcomes: tuple[Outcome, ...]
    """[k]"""
    cluster: tuple[int, ...]
    """[k] index into `sizes` and `representatives`; -1 where the completion abstained."""
    sizes: tuple[int, ...]
    """[C] own completions per cluster, in order of first appearance; 0 where only the jury answered so."""
    representatives: tuple[str, ...]
    """[C] one answer per cluster, independent of the order of completions."""
    num_intransitive_merges: int = 0
    """Pairs put into one cluster though the equivalence did not hold between them directly."""
    num_undecided_pairs: int = 0
    """Comparisons of two readable answers that failed or did not end; they count as unequal."""
    weights: tuple[float, ...] = ()
    """[k] weight of each completion's vote; empty: 1 each."""
    jury: tuple[int, ...] = ()
    """[j] cluster of each juror's answer; -1 abstains."""
    jury_provenance: str = ""
    """Who the jury is; empty without one."""
    entropies: tuple[float, ...] = ()
    """[k] see `GroupScores`; empty unless the vote rule asks for them."""
    self_certainties: tuple[float, ...] = ()
    """[k] likewise"""

    @property
    def num_stopped(self) -> int:
        """Completions that were stopped because the vote was decided; agreement and margin are then lower bounds."""
        return self.outcomes.count(Outcome.STOPPED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """The second phase: what one group's vote decided. Made in one place, in group order."""

    group_id: int
    label_cluster: int
    """Winning cluster; -1 when nobody was elected."""
    pseudo_label: str | None
    provenance: str
    """Where the label came from: "majority" of the group itself, or who else gave it."""
    agreement: float
    """Winner's share of the configured denominator, in [0, 1]; 0 without a winner. A lower bound where completions were
    stopped: they count as not agreeing."""
    margin: float
    """Winner's share minus the runner-up's, which those stopped count for."""
    end_state: EndState | None
    """Why the group leaves the batch; None keeps it."""
    is_paid: bool = True
    """Whether rewards are paid; a group kept without (rewards 0) is not penalised for its KL either."""
    weight: float = 1.0
    """What the group's advantages are multiplied by."""
    penalty: float = 0.0
    """What is taken off every advantage of the group before it is weighed."""
    minority: tuple[float, ...] = ()
    """[C] what members of each cluster are paid besides the rule's reward, of which only 1 - sum(minority) is left;
    empty: nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredGroup:
    """A group with its vote and rewards: the learner's only input."""

    group: RolloutGroup
    tally: Tally
    pseudo_label: str | None
    provenance: str
    agreement: float
    margin: float
    rewards: Float32Array
    """[k]"""
    train_mask: NDArray[np.bool_]
    """[k] which completions are trained on"""
    kl_mask: bool
    """Whether the KL penalty applies to this group."""
    num_unjudged: int = 0
    """Completions paid 0 because the rule's own comparison did not end in time."""
    weight: float = 1.0
    """See `Resolution`."""
    penalty: float = 0.0
    """See `Resolution`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreReceipt:
    """Scalars about a scored group, enough to plan micro-batches without its tokens."""

    group_id: int
    prompt_tokens: int
    completion_tokens: tuple[int, ...]
    """[k]"""
    trained: tuple[bool, ...]
    """[k]"""
    truncated: tuple[bool, ...]
    """[k] which completions were cut at the limit"""
    rewards: tuple[float, ...]
    """[k]"""
    reward_hash: str
    """Hash of rewards and train mask (16 hex digits)."""
    kl_mask: bool = True
    """Whether the KL penalty applies to the group."""
    num_unjudged: int = 0
    weight: float = 1.0
    """See `Resolution`."""
    penalty: float = 0.0
    """See `Resolution`."""

    @property
    def reward_sum(self) -> float:
        return sum(self.rewards)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBatch:
    """One step's groups in group order. `groups` are ScoredGroups, or on the driver references to them."""

    step: int
    branch: int
    groups: tuple[object, ...]
    receipts: tuple[ScoreReceipt, ...]
    """[len(groups)] same order"""

    @property
    def num_completions(self) -> int:
        return sum(sum(receipt.trained) for receipt in self.receipts)

    @property
    def num_tokens(self) -> int:
        """Completion tokens of all trained completions: the token-mean denominator."""
        return sum(n for r in self.receipts for n, used in zip(r.completion_tokens, r.trained, strict=True) if used)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateStats:
    """What one step did to the policy. Equal on every rank (global sums)."""

    step: int
    version: int
    """Policy version after the step."""
    num_updates: int
    """Optimizer calls; 0 for an empty batch."""
    loss: float
    """Token mean over the batch."""
    grad_norm: float
    """Before clipping."""
    kl: float
    """Mean per-token KL to the base model; 0.0 where it was not computed."""
    entropy: float
    """Mean token entropy of the policy in nats."""
    logprob_gap: float
    """Mean |learner - sampler| log-probability over trained tokens, before the update."""
    clip_share: float
    num_tokens: int
    seconds: float
    extra: Mapping[str, float] = field(default_factory=dict)
    """Further learn/* metrics by full name."""
