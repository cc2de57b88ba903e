"""The events of a streamed /generate, and what of a chunk has come so far.

SGLang repeats the whole chunk in each event, or with --incremental-streaming-output only what is new. Repetitions are
not parsed: the last complete event holds everything, also where the stream breaks off.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec

PREFIX = b"data: "
DONE = b"[DONE]"
SHOWN_BYTES = 300


class GarbageError(Exception):
    """What an engine sent is no answer to the request."""


class FinishReason(msgspec.Struct, frozen=True, gc=False):
    type: str
    matched: int | str | list[int] | None = None
    message: str | None = None
    status_code: int | None = None


class CacheTiers(msgspec.Struct, frozen=True):
    """Where cached tokens came from. storage: the store that engines share."""

    storage: int = 0


class Meta(msgspec.Struct, frozen=True, gc=False):
    finish_reason: FinishReason | None
    completion_tokens: int | None = None
    cached_tokens: int = 0
    cached_tokens_details: CacheTiers | None = None
    weight_version: str | None = None
    num_retractions: int | None = None
    spec_verify_ct: int = 0
    output_token_logprobs: list[tuple[float | None, int, Any]] | None = None


Token = Annotated[int, msgspec.Meta(ge=0)]


class Event(msgspec.Struct, frozen=True):
    output_ids: list[Token] | None = None
    meta_info: Meta | None = None
    error: dict[str, Any] | None = None


class Part(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What of a chunk has come. finish: None where the stream broke off. logprobs: None unless asked for.

    meta: all that the last event said besides, None unless asked for.
    """

    output_ids: list[int]
    logprobs: list[float] | None
    finish: FinishReason | None
    cached_tokens: int = 0
    pulled_tokens: int = 0
    weight_version: str | None = None
    verify_steps: int = 0
    retractions: int = 0
    meta: dict[str, Any] | None = None


_DECODER = msgspec.json.Decoder(Event)


class EventReader:
    """Takes the bytes of one stream. incremental: events hold only what is new. most: tokens asked for.

    keep_meta: the part has the whole meta_info of the last event, also what is not known here.
    """

    __slots__ = (
        "_carry",
        "_error",
        "_incremental",
        "_keep_meta",
        "_last",
        "_logprobs",
        "_most",
        "_output_ids",
        "_wants_logprobs",
        "done",
    )

    def __init__(self, *, incremental: bool, most: int, logprobs: bool, keep_meta: bool = False) -> None:
        self._incremental, self._most, self._wants_logprobs = incremental, most, logprobs
        self._keep_meta = keep_meta
        self._carry = b""
        self._last: bytes | None = None
        self._output_ids: list[int] = []
        self._logprobs: list[float] = []
        self._error: GarbageError | RefusedError | None = None
        self.done = False

    def feed(self, data: bytes) -> None:
        """Takes what came; an event that is none is told by `part`."""
        try:
            self._feed(data)
        except (GarbageError, RefusedError) as error:
            self._error = self._error or error

    def _feed(self, data: bytes) -> None:
        if self._carry:
            data = self._carry + data
        *events, self._carry = data.split(b"\n\n")
        for event in events:
            if not event.startswith(PREFIX):
                raise GarbageError(f"wanted an event {PREFIX!r}..., saw {event[:SHOWN_BYTES]!r}")
            payload = event[len(PREFIX) :]
            if payload == DONE:
                self.done = True
                continue
            if self._incremental and self._last is not None:
                self._take(self._parse(self._last))
            self._last = payload

    def part(self) -> Part | None:
        """All that has come, None before the first event; asked once, at the end.

        Raises GarbageError for what is no answer or contradicts itself, RefusedError where the engine said no.
        """
        if self._error is not None:
            raise self._error
        if self._last is None:
            return None
        meta = self._take(self._parse(self._last))
        whole = msgspec.json.decode(self._last)["meta_info"] if self._keep_meta else None
        self._last = None
        if meta.completion_tokens is not None and meta.completion_tokens != len(self._output_ids):
            raise GarbageError(f"saw {len(self._output_ids)} output_ids, completion_tokens {meta.completion_tokens}")
        if len(self._output_ids) > self._most:
            raise GarbageError(f"saw {len(self._output_ids)} output_ids, asked for at most {self._most}")
        return Part(
            output_ids=self._output_ids,
            logprobs=self._logprobs if self._wants_logprobs else None,
            finish=meta.finish_reason,
            cached_tokens=meta.cached_tokens,
            pulled_tokens=meta.cached_tokens_details.storage if meta.cached_tokens_details else 0,
            weight_version=meta.weight_version,
            verify_steps=meta.spec_verify_ct,
            retractions=meta.num_retractions or 0,
            meta=whole,
        )

    def _parse(self, payload: bytes) -> Event:
        try:
            event = _DECODER.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise GarbageError(f"{error}: saw {payload[:SHOWN_BYTES]!r}") from error
        if event.error is not None:
            raise RefusedError(str(event.error.get("message", event.error)), event.error.get("code"))
        return event

    def _take(self, event: Event) -> Meta:
        tokens, meta = event.output_ids, event.meta_info
        if tokens is None or meta is None:
            raise GarbageError("an event without output_ids or meta_info")
        logprobs: list[float] = []
        if self._wants_logprobs:
            pairs = meta.output_token_logprobs or []
            if [token for _, token, _ in pairs] != tokens:
                raise GarbageError(f"log-probabilities of {len(pairs)} tokens are not of the {len(tokens)} output_ids")
            # JSON has no NaN: it comes as null.
            logprobs = [math.nan if value is None else value for value, _, _ in pairs]
        if self._incremental:
            self._output_ids += tokens
            self._logprobs += logprobs
        else:
            self._output_ids, self._logprobs = tokens, logprobs
        return meta


class RefusedError(Exception):
    """The engine says that it will not or cannot serve the request. code: its status."""

    def __init__(self, message: str, code: Any) -> None:
        super().__init__(message)
        self.code = code if isinstance(code, int) else 400
