"""What a rollout is asked for and what it yields."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec


def sample_seed(seed: int, group: str | int, sample: int) -> int:
    """A seed in [0, 2**31) of one sample, stable over machines."""
    digest = hashlib.blake2b(f"{seed}/{group}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 2**31


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt and the samples wanted of it.

    group: its name, unique within a rollout. input_ids: tokens, chat template applied; or text, or chat messages, for
    which the rollout needs a tokenizer. samples: how many. sampling: SGLang's sampling parameters. seed: the samples'
    seeds derive from it, or seeds: one of each sample. metadata: comes back with every sample.
    """

    group: str
    input_ids: Sequence[int] = ()
    text: str | None = None
    messages: Sequence[Mapping[str, Any]] | None = None
    samples: int = 1
    sampling: Mapping[str, Any] = msgspec.field(default_factory=dict)
    seed: int = 0
    seeds: Sequence[int] | None = None
    metadata: Any = None

    def __post_init__(self) -> None:
        given = bool(self.input_ids) + (self.text is not None) + (self.messages is not None)
        if given != 1:
            raise ValueError(f"prompt {self.group!r}: wanted one of input_ids, text and messages, saw {given}")
        if self.samples < 1:
            raise ValueError(f"prompt {self.group!r}: samples: got {self.samples}, wanted at least 1")
        if self.seeds is not None and len(self.seeds) != self.samples:
            raise ValueError(f"prompt {self.group!r}: got {len(self.seeds)} seeds for {self.samples} samples")

    def seed_of(self, sample: int) -> int:
        return self.seeds[sample] if self.seeds is not None else sample_seed(self.seed, self.group, sample)


class Chunk(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A part of a sample that one engine generated in one call.

    end: `length` at the chunk's or the sample's limit, `stop`, or what broke it off. tokens: what of it was kept.
    cached_tokens: of its input. pulled_tokens: of these, out of the KV store that engines share. verify_steps: forward
    passes that verified a draft. Times in seconds since the epoch.
    """

    engine: str
    tokens: int
    end: str
    input_tokens: int
    cached_tokens: int = 0
    pulled_tokens: int = 0
    weight_version: str | None = None
    verify_steps: int = 0
    retractions: int = 0
    started_s: float = 0.0
    ended_s: float = 0.0


# Finish reasons of samples that the model ended, by itself or at the limit.
COMPLETE = frozenset({"stop", "length"})


class Sample(msgspec.Struct, kw_only=True):
    """A sample that ended.

    finish_reason: `stop` (matched: the token or string), `length`, or one that left it unfinished: `cancelled`,
    `deadline`, `error` (error: why). text: None without a tokenizer. logprobs: of the output tokens, None unless asked
    for. whole: why it could not be cut into chunks, empty if it could.
    """

    group: str
    sample: int
    seed: int
    input_ids: list[int]
    output_ids: list[int]
    finish_reason: str
    matched: int | str | None = None
    text: str | None = None
    logprobs: list[float] | None = None
    error: str | None = None
    reward: Any = None
    chunks: list[Chunk] = []
    whole: list[str] = []
    submitted_s: float = 0.0
    finished_s: float = 0.0
    metadata: Any = None

    @property
    def complete(self) -> bool:
        """Whether the model ended it, by itself or at the limit."""
        return self.finish_reason in COMPLETE

    @property
    def weight_versions(self) -> list[str | None]:
        """Of its chunks, in order, without repetition."""
        versions: list[str | None] = []
        for chunk in self.chunks:
            if chunk.tokens and (not versions or versions[-1] != chunk.weight_version):
                versions.append(chunk.weight_version)
        return versions


class Group(msgspec.Struct, kw_only=True):
    """All samples of one prompt, by number."""

    group: str
    samples: list[Sample]
