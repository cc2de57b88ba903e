"""A stand-in for an SGLang engine: it speaks the protocol of SGLang 0.5.23 and computes nothing.

Token and log-probability at a position are a hash of the request's seed and the position, as seeded sampling makes
them; so any cut into chunks, on any engines, must give the same sample. It fails on demand, in the ways engines fail.
Written on bare asyncio protocols: 64 of them share a process and must cost less than what they measure.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from bench.controller.pacer import Pacer

VOCABULARY = 50_000
EOS = 2
STATUS_TEXT = {200: "OK", 400: "Bad Request", 404: "Not Found", 500: "Internal Server Error", 503: "Unavailable"}
_MASK = 2**64 - 1


def noise(seed: int, position: int) -> int:
    """64 bits of a seed and a position (splitmix64)."""
    value = (seed * 0x9E3779B97F4A7C15 + position * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def response_tokens(seed: int, mean_tokens: int) -> int:
    """Length of the response, end token included: skewed, between an eighth of the mean and eight times as much."""
    return max(1, int(mean_tokens * 2.0 ** (((noise(seed, -1) % 1024) / 1024) ** 2 * 6 - 3)))


def token_at(seed: int, position: int, last: int) -> tuple[int, float]:
    """Token id and log-probability at an absolute position; `last` is where the response ends."""
    value = noise(seed, position)
    token = EOS if position == last else 3 + value % (VOCABULARY - 3)
    return token, -((value >> 40) % 4096) / 512


def whole_response(seed: int, prompt_tokens: int, limit: int, mean_tokens: int) -> tuple[list[int], list[float]]:
    """What an undisturbed, unchunked engine answers."""
    length = response_tokens(seed, mean_tokens)
    last = prompt_tokens + length - 1
    pairs = [token_at(seed, position, last) for position in range(prompt_tokens, prompt_tokens + min(length, limit))]
    return [token for token, _ in pairs], [logprob for _, logprob in pairs]


@dataclass(slots=True, kw_only=True)
class Behaviour:
    """How a stub serves; change it while it runs.

    seconds_per_token: of every request. mean_tokens: of responses. fault: `hang` sends nothing any more, `error`
    answers 500, `garbage` sends what is no answer, `backwards` takes tokens back, `short` leaves log-probabilities
    out, `abort` ends every chunk as an abort. constant: all tokens are equal, which costs the stub little. slots:
    most requests at a time, further ones wait. store, layout: of its KV, as it says. model: of its command line, which
    /server_info keeps. loaded: the checkpoint of a weight update, which only /model_info tells.
    """

    seconds_per_token: float = 0.0
    mean_tokens: int = 200
    fault: str | None = None
    slots: int = 10_000
    capacity_tokens: int = 10_000_000
    incremental: bool = False
    page_size: int = 1
    model: str = "stub"
    loaded: str | None = None
    weight_version: str = "default"
    context_tokens: int = 1_000_000
    store: str | None = None
    layout: str = "page_first"
    constant: bool = False


@dataclass(slots=True)
class Seen:
    """What a stub was asked."""

    chunks: int = 0
    most_running: int = 0
    disconnected: int = 0
    cleared: int = 0
    prefilled_tokens: int = 0
    generated_tokens: int = 0
    flushes: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)


class _Parameters(msgspec.Struct):
    max_new_tokens: int
    sampling_seed: int = 0
    stream_interval: int = 1
    custom_params: dict[str, dict[str, Any]] = {}


class _Request(msgspec.Struct):
    """What is read of a request; of its tokens, how many there are."""

    input_ids: msgspec.Raw
    sampling_params: _Parameters
    rid: str | None = None
    return_logprob: bool = False

    @property
    def input_tokens(self) -> int:
        return bytes(self.input_ids).count(b",") + 1


_REQUESTS = msgspec.json.Decoder(_Request)


class Stub:
    """One engine on a loopback port of its own.

    keep_bodies: remember every request. pacer: says when events are sent, instead of `seconds_per_token`.
    """

    def __init__(
        self, behaviour: Behaviour | None = None, *, keep_bodies: bool = False, pacer: Pacer | None = None
    ) -> None:
        self.behaviour = behaviour or Behaviour()
        self.seen = Seen()
        self.keep_bodies = keep_bodies
        self.pacer = pacer
        self.connections: set[_Connection] = set()
        self.waiting: list[_Generation] = []
        self.running: set[_Generation] = set()
        self.cache: dict[int, int] = {}
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def serving(self) -> bool:
        return self._server is not None

    async def start(self) -> str:
        """Serves; on the same port as before where there was one."""
        loop = asyncio.get_running_loop()
        # Ports of killed servers are free at once.
        self._server = await loop.create_server(
            lambda: _Connection(self), "127.0.0.1", self.port, reuse_address=True, backlog=4096
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self.url

    async def kill(self) -> None:
        """As kill -9: the port closes, connections break, the cache is gone."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self.connections):
            connection.abort()
        self.connections.clear()
        self.cache.clear()
        # Let the transports close.
        await asyncio.sleep(0)

    def admit(self) -> None:
        while self.waiting and len(self.running) < self.behaviour.slots:
            generation = self.waiting.pop(0)
            self.running.add(generation)
            self.seen.most_running = max(self.seen.most_running, len(self.running))
            generation.begin()

    def abort_all(self) -> None:
        """As slime and updates of weights ask for it: every request ends with what it has."""
        for generation in [*self.waiting, *self.running]:
            generation.abort()

    def load(self) -> dict[str, Any]:
        used = sum(generation.start + generation.sent for generation in self.running)
        return {
            "loads": [
                {
                    "num_running_reqs": len(self.running),
                    "num_waiting_reqs": len(self.waiting),
                    "num_used_tokens": used,
                    "max_total_num_tokens": self.behaviour.capacity_tokens,
                    "max_running_requests": self.behaviour.slots,
                }
            ]
        }

    def info(self) -> dict[str, Any]:
        behaviour = self.behaviour
        return {
            "version": "0.5.23",
            "model_path": behaviour.model,
            "tokenizer_path": behaviour.model,
            "page_size": behaviour.page_size,
            "dtype": "float32",
            "dp_size": 1,
            "max_total_num_tokens": behaviour.capacity_tokens,
            "max_req_input_len": behaviour.context_tokens - 1,
            "context_length": behaviour.context_tokens,
            "incremental_streaming_output": behaviour.incremental,
            "hicache_storage_backend": behaviour.store,
            "hicache_mem_layout": behaviour.layout,
        }


class _Generation:
    """One /generate in progress: sends an event every `interval` tokens."""

    __slots__ = (
        "cached", "closed", "connection", "end", "interval", "last", "logprobs", "reason", "request", "seed", "sent",
        "start", "tokens",
    )  # fmt: skip

    def __init__(self, connection: _Connection, request: _Request) -> None:
        self.connection, self.request, self.closed = connection, request, False
        parameters = request.sampling_params
        self.seed = parameters.sampling_seed
        hints = parameters.custom_params.get("seer", {})
        self.start = request.input_tokens
        self.last = hints.get("prompt_len", self.start) - 1
        self.last += response_tokens(self.seed, connection.stub.behaviour.mean_tokens)
        limit = self.start + parameters.max_new_tokens
        self.end = min(limit, self.last + 1)
        self.reason = {"type": "stop", "matched": EOS} if self.end == self.last + 1 else {"type": "length"}
        self.interval = parameters.stream_interval
        self.tokens: list[int] = []
        self.logprobs: list[tuple[float, int, None]] = []
        self.sent = 0
        self.cached = 0

    def begin(self) -> None:
        stub = self.connection.stub
        if stub.behaviour.fault == "hang":
            return
        self.cached = min(stub.cache.get(self.seed, 0), self.start - 1)
        stub.seen.prefilled_tokens += self.start - self.cached
        self._send_later()

    @property
    def events_left(self) -> int:
        return -(-(self.end - self.start - len(self.tokens)) // self.interval)

    def _send_later(self) -> None:
        stub = self.connection.stub
        position = self.start + len(self.tokens)
        pause_s = min(self.interval, self.end - position) * stub.behaviour.seconds_per_token
        if stub.pacer is not None:
            stub.pacer.add(self)
        elif pause_s:
            asyncio.get_running_loop().call_later(pause_s, self.step)
        else:
            self.step()

    def step(self) -> None:
        """Sends the next event."""
        stub = self.connection.stub
        if self.closed or stub.behaviour.fault == "hang":
            return
        until = min(self.start + len(self.tokens) + self.interval, self.end)
        if stub.behaviour.constant:
            new = until - self.start - len(self.tokens)
            self.tokens += [7] * new
            self.logprobs += [(-0.5, 7, None)] * new
        for position in range(self.start + len(self.tokens), until):
            token, logprob = token_at(self.seed, position, self.last)
            self.tokens.append(token)
            self.logprobs.append((logprob, token, None))
        finished = until == self.end
        stub.seen.generated_tokens += len(self.tokens) - self.sent
        self.connection.event(self._event(finished))
        self.sent = len(self.tokens)
        if finished:
            stub.cache[self.seed] = until
            self.close()
            self.connection.end_stream()
        else:
            self._send_later()

    def abort(self) -> None:
        self.reason = {"type": "abort", "message": "Abort by the stub's caller"}
        if self in self.connection.stub.waiting:
            self.connection.stub.waiting.remove(self)
        connection = self.connection
        connection.event(self._event(True))
        self.close()
        connection.end_stream()

    def _event(self, finished: bool) -> bytes:
        behaviour = self.connection.stub.behaviour
        since = self.sent if behaviour.incremental else 0
        meta: dict[str, Any] = {
            "id": self.request.rid,
            "finish_reason": self.reason if finished else None,
            "prompt_tokens": self.start,
            "completion_tokens": len(self.tokens),
            "cached_tokens": self.cached,
            "weight_version": behaviour.weight_version,
            "num_retractions": 0,
        }
        tokens, logprobs = self.tokens[since:], self.logprobs[since:]
        match behaviour.fault:
            case "garbage":
                return b'{"output_ids": ["what", null'
            case "backwards" if self.sent:
                tokens = [token + 1 for token in tokens[: max(1, len(tokens) // 2)]]
            case "short":
                logprobs = logprobs[:-1]
            case "abort":
                meta["finish_reason"] = {"type": "abort", "message": "the stub was told to", "status_code": 500}
        if self.request.return_logprob:
            meta["output_token_logprobs"] = logprobs
        return msgspec.json.encode({"output_ids": tokens, "meta_info": meta})

    def close(self) -> None:
        self.closed = True
        stub = self.connection.stub
        stub.running.discard(self)
        self.connection.generation = None
        stub.admit()


class _Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, one request at a time."""

    def __init__(self, stub: Stub) -> None:
        self.stub = stub
        self.generation: _Generation | None = None
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self.stub.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.stub.connections.discard(self)
        if self.generation is not None:
            self.stub.seen.disconnected += 1
            generation = self.generation
            if generation in self.stub.waiting:
                self.stub.waiting.remove(generation)
            generation.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = bytes(self._buffer[:head_end])
        at = head.lower().find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self._buffer) < head_end + 4 + length:
            return
        body = bytes(self._buffer[head_end + 4 : head_end + 4 + length])
        del self._buffer[: head_end + 4 + length]
        self._answer(head.split(b" ", 2)[1].split(b"?")[0], body)

    def _answer(self, path: bytes, body: bytes) -> None:
        fault = self.stub.behaviour.fault
        if fault == "hang":
            return
        if fault == "error":
            self._reply(500, {"error": {"message": "the stub was told to fail"}})
        elif path == b"/generate":
            self._generate(body)
        elif path == b"/health":
            self._reply(200, {})
        elif path == b"/v1/loads":
            self._reply(200, self.stub.load())
        elif path == b"/server_info":
            self._reply(200, self.stub.info())
        elif path == b"/model_info":
            behaviour = self.stub.behaviour
            path_of_weights = behaviour.loaded or behaviour.model
            self._reply(200, {"model_path": path_of_weights, "weight_version": behaviour.weight_version})
        elif path == b"/update_weights_from_disk":
            update = msgspec.json.decode(body)
            behaviour = self.stub.behaviour
            behaviour.loaded, behaviour.weight_version = update["model_path"], update["weight_version"]
            self._reply(200, {})
        elif path == b"/abort_request":
            if msgspec.json.decode(body).get("abort_all"):
                self.stub.abort_all()
            self._reply(200, {})
        elif path == b"/flush_cache":
            self.stub.seen.flushes += 1
            self._reply(200, {})
        elif path == b"/hicache/storage-backend/clear" and self.stub.behaviour.store is not None:
            self.stub.seen.cleared += 1
            self._reply(200, {})
        else:
            self._reply(404, {"error": {"message": "the stub has no such path"}})

    def _generate(self, body: bytes) -> None:
        request = _REQUESTS.decode(body)
        self.stub.seen.chunks += 1
        if self.stub.keep_bodies:
            self.stub.seen.bodies.append(msgspec.json.decode(body))
        if request.input_tokens >= self.stub.behaviour.context_tokens:
            self._reply(400, {"error": {"message": "the input is longer than the model's context length"}})
            return
        self._write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        self.generation = _Generation(self, request)
        self.stub.waiting.append(self.generation)
        self.stub.admit()

    def event(self, payload: bytes) -> None:
        data = b"data: " + payload + b"\n\n"
        self._write(b"%x\r\n%b\r\n" % (len(data), data))

    def end_stream(self) -> None:
        self._write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    def _reply(self, status: int, value: object) -> None:
        data = msgspec.json.encode(value)
        head = f"HTTP/1.1 {status} {STATUS_TEXT[status]}\r\ncontent-type: application/json\r\n"
        self._write(head.encode() + b"content-length: %d\r\n\r\n%b" % (len(data), data))

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)
