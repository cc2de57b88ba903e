"""The bus of a cluster: one Redis (or Valkey) stream a group.

Streams keep what engines that come later need. A stream's key is a hash of weight version and group, tagged with one
of 64 buckets, so that a Redis Cluster spreads groups over its nodes and one command can still read many of them.
Text that the server has not acknowledged is sent again, and all own text is, when the server has lost its memory: an
offset says what is new.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException
from redis.retry import Retry

from sglang_seer.draft.bus.address import Address, without_password
from sglang_seer.draft.bus.deltas import Deltas, concatenate
from sglang_seer.draft.bus.history import History
from sglang_seer.draft.bus.pieces import pack_piece, place_of, unpack_piece
from sglang_seer.draft.bus.protocol import BusError, Keeping, Known, Traffic
from sglang_seer.draft.bus.wire import BadFrame, Text, group_texts, many_deltas

logger = logging.getLogger("sglang_seer")

FIELD = b"t"
# Entries of a stream; about, as Redis trims whole nodes.
MOST_ENTRIES = 16_384
# Sent with the first entry and then with one of so many: it is a quarter of a small command.
TRIM_EVERY = 64
# Least time between two round trips that write, and two that read: an entry costs as much as a dozen tokens.
SEND_S = 0.12
READ_S = 0.05
READ_ENTRIES = 512
TIMEOUT_S = 1.0
FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.05, 5.0
REREAD_S = 1.0
REFUSED_S = 1.0
ALIVE_S = 10.0
# Groups written with one round trip.
MOST_GROUPS = 512
_START = b"0"
_TAG_END = len("seer:{.}")
ERRORS = (redis.RedisError, RedisClusterException)


class RedisBus:
    """See `TokenBus`."""

    def __init__(self, address: Address, *, version: int, known: Known, keeping: Keeping, required: bool) -> None:
        """Connect. Raises BusError if that fails and the bus is required; otherwise it is tried again and again."""
        self.traffic = Traffic()
        self._url = address.place
        self._cluster = address.cluster
        self._version = version
        self._known = known
        self._history = History(keeping.tokens)
        self._ttl_s = keeping.ttl_s
        self._sender = secrets.randbits(31)
        self._client: Any = None
        self._server: str | None = None
        self._connected = False
        self._backoff_s, self._retry_s = FIRST_BACKOFF_S, -float("inf")
        self._problem = ""
        self._reconnects = self._refused = 0
        # Own text to be sent, and groups of which the server may lack something: those are sent from their start.
        self._fresh: list[Deltas] = []
        self._doubtful: dict[int, None] = {}
        self._entries: dict[int, int] = {}
        self._places: dict[int, bytes] = {}
        self._reread_s: dict[int, float] = {}
        self._alive_s: dict[int, float] = {}
        self._keys: dict[int, bytes] = {}
        self._read_s = self._sent_s = self._refused_until_s = self._kept_s = -float("inf")
        try:
            self._connect()
        except ERRORS as error:
            message = f"bus: {without_password(self._url)} cannot be used: {_plain(error)}"
            if required:
                raise BusError(message) from error
            logger.warning("seer: %s; drafting goes on from local text until it can", message)
            self._failed(error)
        except (TypeError, ValueError) as error:
            # redis-py's answer to options behind the question mark that it does not know.
            raise BusError(f"bus: {without_password(self._url)}: {error}") from error

    def publish(self, new: Deltas) -> None:
        self._history.append(new, time.monotonic())
        if self._connected:
            self._fresh.append(new)
        else:
            self._doubtful.update(dict.fromkeys(new.groups.tolist()))

    def subscribe(self, groups: Sequence[int]) -> None:
        for group in groups:
            self._places.setdefault(group, _START)

    def unsubscribe(self, groups: Sequence[int]) -> None:
        for group in groups:
            self._places.pop(group, None)
            self._reread_s.pop(group, None)

    def catch_up(self, groups: Sequence[int]) -> None:
        now_s = time.monotonic()
        for group in groups:
            if group in self._places and now_s - self._reread_s.get(group, -float("inf")) > REREAD_S:
                self._reread_s[group] = now_s
                self._places[group] = _START
                self.traffic.repairs += 1

    def drop_group(self, group: int) -> None:
        self._history.drop_group(group)
        for table in (self._doubtful, self._entries):
            table.pop(group, None)

    def drop_version(self, version: int) -> None:
        self._version = version
        self._history.clear()
        self._fresh.clear()
        for table in (self._doubtful, self._entries, self._alive_s, self._reread_s, self._keys):
            table.clear()
        self._places = dict.fromkeys(self._places, _START)

    def exchange(self, timeout_s: float) -> list[Deltas]:
        now_s = time.monotonic()
        if not self._connected and now_s < self._retry_s:
            time.sleep(min(timeout_s, self._retry_s - now_s))
            return []
        arrived: list[Deltas] = []
        try:
            if not self._connected:
                self._connect()
            self._send(now_s)
            if now_s - self._read_s >= READ_S and self._places:
                self._read_s = now_s
                arrived = self._read()
            self._keep_alive(now_s)
        except ERRORS as error:
            self._failed(error)
        self._history.expire(now_s, self._ttl_s)
        if not arrived:
            time.sleep(timeout_s)
        return arrived

    def status(self) -> dict[str, Any]:
        return {
            "connected": self._connected,
            "problem": self._problem,
            "reconnects": self._reconnects,
            "refused_writes": self._refused,
            "history_tokens": self._history.num_tokens,
            "history_evicted_tokens": self._history.evicted_tokens,
            **self.traffic.as_dict(),
        }

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def _connect(self) -> None:
        if self._client is None:
            options: dict[str, Any] = {
                "socket_timeout": TIMEOUT_S,
                "socket_connect_timeout": TIMEOUT_S,
                # Trying again is this class's business: it sends what was lost, too.
                "retry": Retry(NoBackoff(), 0),
            }
            if self._cluster:
                self._client = redis.RedisCluster.from_url(self._url, **options)  # type: ignore[no-untyped-call]
            else:
                self._client = redis.Redis.from_url(self._url, **options)
                self._client.set_response_callback("XREAD", lambda response, **_: response)
        server = self._server_id()
        if self._server not in (None, server):
            # It may have lost its memory.
            self._doubtful.update(dict.fromkeys(self._history.groups))
            self._alive_s.clear()
            self._places = dict.fromkeys(self._places, _START)
        if self._server is not None:
            self._reconnects += 1
            logger.warning("seer: bus: %s is back", without_password(self._url))
        self._server, self._connected, self._problem = server, True, ""
        self._backoff_s = FIRST_BACKOFF_S

    def _server_id(self) -> str:
        if not self._cluster:
            return str(self._client.info("server")["run_id"])
        nodes = self._client.info("server", target_nodes=redis.RedisCluster.PRIMARIES)
        infos = [nodes] if "run_id" in nodes else nodes.values()
        return " ".join(sorted(info["run_id"] for info in infos))

    def _failed(self, error: Exception) -> None:
        if self._connected:
            logger.warning(
                "seer: bus: %s is lost (%s); drafting goes on from local text, text of others follows when it is back",
                without_password(self._url),
                _plain(error),
            )
        self._connected, self._problem = False, _plain(error)
        self._retry_s = time.monotonic() + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, LAST_BACKOFF_S)
        if self._client is not None and not self._cluster:
            self._client.connection_pool.disconnect()

    def _send(self, now_s: float) -> None:
        doubtful = list(self._doubtful)[:MOST_GROUPS] if now_s >= self._refused_until_s else []
        if not (self._fresh or doubtful) or now_s - self._sent_s < SEND_S:
            return
        self._sent_s = now_s
        fresh = concatenate(self._fresh).merged()
        self._fresh.clear()
        if self._doubtful:
            told = np.fromiter((group in self._doubtful for group in fresh.groups.tolist()), np.bool_, len(fresh))
            fresh = fresh.select(~told)
        parts = [fresh, *(self._history.since(group, {}) for group in doubtful)]
        # Until the server says otherwise.
        self._doubtful.update(dict.fromkeys(fresh.groups.tolist()))
        pipeline = self._client.pipeline(transaction=False)
        written: list[int] = []
        for part in parts:
            for group, text in group_texts(self._version, self._sender, part):
                data = pack_piece(text)
                pipeline.execute_command("XADD", self._key(group), *self._trim(group), "*", FIELD, data)
                written.append(group)
                self.traffic.sent_bytes += len(data)
                if group not in self._alive_s:
                    self._alive_s[group] = now_s
                    pipeline.execute_command("EXPIRE", self._key(group), max(int(self._ttl_s), 1))
                    written.append(group)
            self.traffic.sent_tokens += len(part.tokens)
        refused: dict[int, Exception] = {}
        for group, result in zip(written, pipeline.execute(raise_on_error=False), strict=True):
            if isinstance(result, Exception):
                refused[group] = result
        for group in (*doubtful, *written):
            if group not in refused:
                self._doubtful.pop(group, None)
        self._problem = ""
        for error in refused.values():
            if not isinstance(error, redis.ResponseError):
                raise error
            # Such as a full memory: what was refused stays here and is tried again.
            self._problem = _plain(error)
            self._refused_until_s = now_s + REFUSED_S
        self._refused += len(refused)

    def _trim(self, group: int) -> tuple[object, ...]:
        count = self._entries.get(group, 0)
        self._entries[group] = count + 1
        return ("MAXLEN", "~", MOST_ENTRIES) if count % TRIM_EVERY == 0 else ()

    def _read(self) -> list[Deltas]:
        texts: list[tuple[int, Text]] = []
        of_key = {self._key(group): group for group in self._places}
        pipeline = self._client.pipeline(transaction=False)
        for keys in self._together(of_key):
            places = [self._places[of_key[key]] for key in keys]
            pipeline.execute_command("XREAD", "COUNT", READ_ENTRIES, "STREAMS", *keys, *places)
        now_ms = time.time() * 1e3
        for result in pipeline.execute():
            for key, entries in result or ():
                group = of_key[key]
                number = group.to_bytes(8, "little", signed=True)
                place = place_of(self._version, number)
                self._places[group] = entries[-1][0]
                if len(entries) == READ_ENTRIES:
                    self._read_s = -float("inf")
                for _, fields in entries:
                    data = fields.get(FIELD, b"") if isinstance(fields, dict) else fields[1]
                    if (text := self._text(data, number, place)) is not None:
                        texts.append((group, text))
                self.traffic.arrived(0, max(now_ms - int(entries[-1][0].partition(b"-")[0]), 0.0))
        return self._deltas(texts)

    def _text(self, data: bytes, number: bytes, place: int) -> Text | None:
        self.traffic.received_bytes += len(data)
        try:
            frame = unpack_piece(data, self._version, number, place)
            if frame.sender == self._sender:
                return None
            if frame.version != self._version:
                raise BadFrame("stale", "text of other weights")
        except BadFrame as error:
            self.traffic.drop(error)
            return None
        return frame

    def _deltas(self, texts: Sequence[tuple[int, Text]]) -> list[Deltas]:
        """What is in the frames of these groups; there are many, so that columns are worth their while."""
        if not texts:
            return []
        wanted = np.array([group for group, _ in texts])
        try:
            new = many_deltas([text for _, text in texts])
            wanted = np.repeat(wanted, [len(text.requests) // 4 for _, text in texts])
        except BadFrame as error:
            if len(texts) > 1:
                half = len(texts) // 2
                return self._deltas(texts[:half]) + self._deltas(texts[half:])
            self.traffic.drop(error)
            return []
        right = new.groups == wanted
        if not right.all():
            self.traffic.drop(BadFrame("foreign", "text of another group"))
            new = new.select(right)
        self.traffic.received_tokens += len(new.tokens)
        return [new]

    def _together(self, keys: Iterable[bytes]) -> list[list[bytes]]:
        """Keys that one command may name: all, or in a cluster those of a bucket."""
        if not self._cluster:
            return [list(keys)]
        buckets: dict[bytes, list[bytes]] = {}
        for key in keys:
            buckets.setdefault(key[:_TAG_END], []).append(key)
        return list(buckets.values())

    def _keep_alive(self, now_s: float) -> None:
        """Postpone the end of streams that are read or written; write again those that are gone."""
        if now_s - self._kept_s < min(self._ttl_s / 3, ALIVE_S) / 4:
            return
        self._kept_s = now_s
        live = dict.fromkeys([*self._places, *self._history.groups])
        for table in (self._doubtful, self._entries, self._alive_s, self._keys):
            for group in table.keys() - live:
                del table[group]
        due = [
            group for group in live if now_s - self._alive_s.setdefault(group, now_s) > min(self._ttl_s / 3, ALIVE_S)
        ]
        if not due:
            return
        pipeline = self._client.pipeline(transaction=False)
        for group in due:
            pipeline.execute_command("EXPIRE", self._key(group), max(int(self._ttl_s), 1))
        for group, there in zip(due, pipeline.execute(), strict=True):
            self._alive_s[group] = now_s
            if not there:
                if group in self._history.groups:
                    self._doubtful[group] = None
                if group in self._places:
                    self._places[group] = _START

    def _key(self, group: int) -> bytes:
        key = self._keys.get(group)
        if key is None:
            number = self._version.to_bytes(8, "little", signed=True) + group.to_bytes(8, "little", signed=True)
            name = base64.urlsafe_b64encode(hashlib.blake2b(number, digest_size=8).digest()).rstrip(b"=")
            key = self._keys[group] = b"seer:{" + name[:1] + b"}" + name[1:]
        return key


def _plain(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
