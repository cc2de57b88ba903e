"""What an observing engine keeps of its work, as it travels in /server_info."""

from __future__ import annotations

import msgspec

from sglang_seer.draft.step_time import StepObservation

RECORD_VERSION = 1


class Response(msgspec.Struct, frozen=True, array_like=True):
    """One response that ended here.

    group: number of its prompt's group within the window. Times in seconds since the window's first request was asked
    for: arrived_s in the queue, first_s its first token, ended_s its last. retractions: how often it lost its KV.
    """

    group: int
    prompt_tokens: int
    tokens: int
    limit_tokens: int
    arrived_s: float
    first_s: float
    ended_s: float
    retractions: int


class Window(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Work between two pauses or flushes, so of a rollout.

    running: recorded requests that have not ended. aborted: ended without a length. chunks: those of responses that go
    on in another request. left_out: requests beyond the most that are recorded; whoever comes first is, whatever its
    length.
    """

    responses: list[Response]
    running: int
    aborted: int
    chunks: int
    left_out: int


class Steps(msgspec.Struct, frozen=True, array_like=True):
    """Verification steps of drafts that were replayed, and the tokens they gave, bonus included."""

    steps: int
    tokens: int


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """policy, speculation: the engine's own schedule policy and speculative algorithm. windows: the last whole one and
    the present one. steps: typical times by size. drafts: by finished siblings, from 0."""

    policy: str
    speculation: str | None
    kv_capacity_tokens: int
    max_running: int
    windows: list[Window]
    steps: list[StepObservation]
    drafts: list[Steps]
    version: int = RECORD_VERSION


def encode(record: Record) -> str:
    """One string of JSON: an HTTP server that walks nested lists would take far longer than the engine."""
    return msgspec.json.encode(record).decode()


def decode(text: str) -> Record:
    """Raises ValueError for what is no record of this version."""
    try:
        record = msgspec.json.decode(text, type=Record)
    except msgspec.MsgspecError as error:
        raise ValueError(f"record: {error}; wanted one of version {RECORD_VERSION}") from error
    if record.version != RECORD_VERSION:
        raise ValueError(f"record: got version {record.version}, wanted {RECORD_VERSION}: use the engine's sglang-seer")
    return record
