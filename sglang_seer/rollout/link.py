"""The link to one engine: its calls, what it says of itself, and whether it is trusted with chunks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from sglang_seer.rollout.client import SHORT_CALL_S, EngineClient, EngineError
from sglang_seer.rollout.config import RolloutConfig
from sglang_seer.rollout.records import Load
from sglang_seer.rollout.stream import EventReader, GarbageError, Part, RefusedError
from sglang_seer.rollout.wire import StatusError, Wire, WireError

log = logging.getLogger(__name__)

# Engines must agree in these, or a sample that moves between them changes.
SIGNATURE = (
    *("model_path", "tokenizer_path", "dtype", "quantization"),
    *("page_size", "tp_size", "kv_cache_dtype", "version"),
)
# And in these where they share a KV store: its keys do not say how a page is laid out.
STORE_SIGNATURE = ("hicache_storage_backend", "hicache_mem_layout")
# How fast the pace of an engine follows what is seen.
PACE_WEIGHT = 0.2
# How long an engine that is let go may take over aborts.
ABORT_S = 1.0
# Answers that say "not now" and not "not this".
BUSY = (408, 429)


class Outcome(NamedTuple):
    """What a call brought. broken: why it did not end by itself. refused: the engine will not serve this request.
    blame: the engine answered, and badly."""

    part: Part | None
    broken: str | None = None
    refused: str | None = None
    blame: bool = False


class EngineFacts(NamedTuple):
    """From /server_info. most_input_tokens: None where the engine does not say. seer: Seer's mode there."""

    signature: dict[str, Any]
    capacity_tokens: int
    slots: int | None
    most_input_tokens: int | None
    context_tokens: int | None
    incremental: bool
    seer: str = "off"


def facts_of(info: Mapping[str, Any], *, shared_kv: bool = False) -> EngineFacts:
    """Raises ValueError where the engine does not say how much KV it has."""
    names = SIGNATURE + STORE_SIGNATURE if shared_kv else SIGNATURE
    ranks = info.get("dp_size") or 1
    capacity = info.get("max_total_num_tokens")
    if not isinstance(capacity, int) or capacity < 1:
        raise ValueError(f"/server_info: max_total_num_tokens: got {capacity!r}, wanted the engine's KV slots")
    slots = info.get("max_running_requests")
    return EngineFacts(
        signature={name: info.get(name) for name in names},
        capacity_tokens=capacity * ranks,
        slots=slots * ranks if isinstance(slots, int) and slots > 0 else None,
        most_input_tokens=info.get("max_req_input_len"),
        context_tokens=info.get("context_length"),
        # Its name before 0.5.23.
        incremental=bool(info.get("incremental_streaming_output", info.get("stream_output", False))),
        seer=_seer_mode(info),
    )


def _seer_mode(info: Mapping[str, Any]) -> str:
    states = info.get("internal_states") or [{}]
    return str(states[0].get("sglang_seer", {}).get("mode", "off"))


class EngineLink:
    """One engine at `url`. `up` and `down` are told by the controller, which listens to `suspect`."""

    def __init__(self, url: str, config: RolloutConfig) -> None:
        self.url = url.rstrip("/")
        self._config = config
        self._wire = Wire(self.url, connect_timeout_s=config.connect_s)
        self._client = EngineClient(self.url)
        self.facts: EngineFacts | None = None
        # Set when a chunk ended in a way that makes one doubt the engine.
        self.suspect = asyncio.Event()
        self.strikes = 0
        self.rests = 0
        self.last_sign_s = 0.0
        self.last_error = "not asked yet"
        # Seconds a token of one request takes, smoothed; None before the first chunk.
        self.pace_s: float | None = None
        # By request id: when a running chunk last got something.
        self.pulses: dict[str, float] = {}
        self._aborts: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        await self._client.__aenter__()

    async def close(self) -> None:
        if self._aborts:
            await asyncio.wait(self._aborts, timeout=ABORT_S)
        self._wire.close()
        await self._client.__aexit__(None, None, None)

    async def ask(self) -> EngineFacts:
        """Its /server_info. Raises EngineError where it does not answer, ValueError where it is not of use."""
        try:
            info = await self._client.server_info()
            # There it is the model of its start. One that comes back with the weights of the start must be seen.
            info |= {"model_path": (await self._client.model_info()).get("model_path", info.get("model_path"))}
            facts = facts_of(info, shared_kv=self._config.shared_kv)
        except EngineError as error:
            self.last_error = str(error)
            raise
        if self._config.shared_kv and facts.signature["hicache_storage_backend"] is None:
            log.warning("shared_kv: engine %s has no store: it wants --hicache-storage-backend", self.url)
        return facts

    async def clear_store(self) -> bool:
        """Whether it emptied the KV store that it is attached to."""
        try:
            await self._client.clear_store()
        except EngineError as error:
            self.last_error = str(error)
            return False
        return True

    async def weight_version(self) -> str | None:
        """Of what it serves, None where it does not say. Raises EngineError where it does not answer."""
        version = (await self._client.model_info()).get("weight_version")
        return None if version is None else str(version)

    async def healthy(self, timeout_s: float) -> bool:
        """Whether /health says yes in time. It takes a second at least: SGLang waits for a sign of its scheduler."""
        try:
            await self._client.health(timeout_s)
        except EngineError as error:
            self.last_error = str(error)
            return False
        self.signed()
        return True

    async def update_weights(self, folder: str, version: str, timeout_s: float) -> None:
        """See EngineClient. What the engine says of itself may change with its weights: it is asked again."""
        await self._client.update_weights(folder, version, timeout_s)
        self.facts = await self.ask()

    async def load(self) -> Load | None:
        """None where it does not say."""
        try:
            return await self._client.load(min(SHORT_CALL_S, self._config.silent_s))
        except EngineError as error:
            self.last_error = str(error)
            return None

    def strike(self, why: str) -> None:
        """It answered, and badly."""
        self.strikes += 1
        self.last_error = why
        if self.strikes >= self._config.strikes:
            self.suspect.set()

    async def _abort(self, rid: str) -> None:
        """Best effort: an engine that is not told goes on until it misses the connection, or to the chunk's end."""
        try:
            await self._client.abort(rid)
        except EngineError as error:
            self.last_error = str(error)

    def signed(self) -> None:
        """A sign of life."""
        self.last_sign_s = asyncio.get_running_loop().time()

    def seen_pace(self, seconds: float, tokens: int) -> None:
        """A chunk took so long for so many tokens."""
        pace_s = seconds / tokens
        self.pace_s = pace_s if self.pace_s is None else self.pace_s + PACE_WEIGHT * (pace_s - self.pace_s)

    async def generate(self, body: dict[str, Any], *, most: int, logprobs: bool, keep_meta: bool = False) -> Outcome:
        """One chunk. Never raises but CancelledError; then `Cancelled` has what had come."""
        assert self.facts is not None
        reader = EventReader(incremental=self.facts.incremental, most=most, logprobs=logprobs, keep_meta=keep_meta)

        def take(data: bytes) -> None:
            self.signed()
            self.pulses[body["rid"]] = self.last_sign_s
            reader.feed(data)

        broken = None
        self.pulses[body["rid"]] = asyncio.get_running_loop().time()
        try:
            await self._wire.post("/generate", msgspec.json.encode(body), take)
        except asyncio.CancelledError as error:
            abort = asyncio.create_task(self._abort(body["rid"]))
            self._aborts.add(abort)
            abort.add_done_callback(self._aborts.discard)
            raise Cancelled(outcome_of(reader, None).part) from error
        except StatusError as error:
            return _refusal(error.status, str(error))
        except (WireError, OSError, TimeoutError) as error:
            # No blame yet: one of many connections may break. Whoever watches asks the engine.
            broken = f"connection: {error or type(error).__name__}"
            self.last_error = broken
            self.suspect.set()
        finally:
            del self.pulses[body["rid"]]
        return outcome_of(reader, broken)


def outcome_of(reader: EventReader, broken: str | None) -> Outcome:
    """What a stream brought that ended, or broke off for that reason."""
    try:
        part = reader.part()
    except GarbageError as error:
        return Outcome(None, f"garbage: {error}", blame=broken is None)
    except RefusedError as error:
        return _refusal(error.code, f"status {error.code}: {error}")
    finish = part.finish if part is not None else None
    if part is not None and finish is not None and finish.type == "abort":
        # An abort without a status comes from outside, as before an update of weights: what was generated is good.
        if not part.output_ids:
            return _refusal(finish.status_code or 500, f"aborted: {finish.message or 'without a reason'}")
        return Outcome(part, blame=finish.status_code is not None)
    return Outcome(part, broken, blame=part is None and broken is None)


def _refusal(status: int, text: str) -> Outcome:
    """No answer but a status: the request's fault below 500, else the engine's."""
    if 400 <= status < 500 and status not in BUSY:
        return Outcome(None, text, refused=text)
    return Outcome(None, text, blame=True)


class Cancelled(asyncio.CancelledError):
    """A chunk was broken off from here. part: what had come."""

    def __init__(self, part: Part | None) -> None:
        super().__init__()
        self.part = part


def mismatches(facts: Mapping[str, EngineFacts]) -> list[str]:
    """In what the engines differ that must be equal, each with the value of every engine."""
    found = []
    for name in next(iter(facts.values())).signature:
        values = {url: one.signature[name] for url, one in facts.items()}
        if len(set(map(str, values.values()))) > 1:
            found.append(f"{name}: " + ", ".join(f"{url} has {value!r}" for url, value in values.items()))
    return found
