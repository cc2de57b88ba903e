"""The URL that chooses a bus."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

SCHEMES = ("inproc", "ipc", "tcp", "redis", "rediss", "redis+cluster", "rediss+cluster")
_WANTED = (
    "inproc:NAME, ipc:///FOLDER, tcp://HOST:PORT?peer=HOST:PORT&..., redis://[:PASSWORD@]HOST:PORT/DB, "
    "rediss://... (TLS), redis+cluster://HOST:PORT"
)


@dataclass(frozen=True, slots=True)
class Address:
    """kind: inproc, ipc, tcp or redis. place: name, folder, host:port, or the whole URL for Redis."""

    kind: str
    place: str
    peers: tuple[str, ...] = ()
    cluster: bool = False


def parse_address(url: str) -> Address:
    """The parts of a bus URL. Raises ValueError that says what was seen, without a password, and what was wanted."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"bus: got {without_password(url)!r} ({error}), wanted one of {_WANTED}") from error
    problem = None
    if parts.scheme not in SCHEMES:
        problem = f"unknown scheme {parts.scheme!r}"
    elif parts.scheme == "ipc" and (parts.netloc or not parts.path.strip("/")):
        problem = "ipc needs three slashes and a folder of its own"
    elif parts.scheme == "tcp" and (not parts.hostname or not port):
        problem = "tcp needs a host and a port"
    elif parts.scheme.startswith("redis") and not parts.hostname:
        problem = "redis needs a host"
    elif parts.scheme.startswith("redis") and not (parts.path.strip("/") or "0").isdigit():
        problem = f"database {parts.path.strip('/')!r} is no number"
    if problem:
        raise ValueError(f"bus: got {without_password(url)!r}: {problem}; wanted one of {_WANTED}")
    if parts.scheme == "inproc":
        return Address("inproc", parts.path)
    if parts.scheme == "ipc":
        return Address("ipc", parts.path)
    if parts.scheme == "tcp":
        query = parse_qs(parts.query)
        peers = tuple(query.pop("peer", ()))
        wrong = [peer for peer in peers if not peer.rpartition(":")[0] or not peer.rpartition(":")[2].isdigit()]
        if query or wrong:
            raise ValueError(f"bus: got {url!r}: wanted only peer=HOST:PORT behind the question mark")
        return Address("tcp", parts.netloc, peers)
    scheme = parts.scheme.removesuffix("+cluster")
    return Address("redis", parts._replace(scheme=scheme).geturl(), cluster=scheme != parts.scheme)


def without_password(url: str) -> str:
    """The URL for messages and status: what stands before an @ is nobody's business."""
    scheme, slashes, rest = url.partition("://")
    secret, at, host = rest.rpartition("@")
    return f"{scheme}{slashes}***{at}{host}" if secret else url
