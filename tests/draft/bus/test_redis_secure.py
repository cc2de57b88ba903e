"""Redis with TLS, and a cluster of it: real servers on the loopback address."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import redis

from sglang_seer.demo.redis_server import RedisServer
from sglang_seer.demo.servers import HOST, PORTS, pick_port
from sglang_seer.draft.bus import BusError
from tests.draft.bus.members import GROUP, Member, until

Joined = Callable[..., Member]
NODES = 3
# Nodes speak to each other on ports so far above those of their clients.
BUS_ABOVE = 10_000


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed one for this host, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: no certificate can be made")
    made, key = folder / f"{name}.crt", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    more = ["-addext", f"subjectAltName=IP:{HOST}", "-keyout", str(key), "-out", str(made)]
    done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return made, key


@pytest.fixture
def tls_url(redis_program: str, tmp_path: Path) -> Iterator[str]:
    """Of a server with TLS and a password; tmp_path has its certificate, redis.crt."""
    made, key = certificate(tmp_path, "redis")
    port = pick_port(None)
    flags = ["--tls-port", str(port), "--tls-cert-file", str(made), "--tls-key-file", str(key)]
    flags += ["--tls-ca-cert-file", str(made), "--tls-auth-clients", "no", "--requirepass", "s3cret"]
    try:
        with RedisServer(tmp_path, *flags, program=redis_program) as server:
            if redis.Redis(port=server.port, password="s3cret").info("server").get("tcp_port") is None:
                pytest.skip(f"{redis_program} says nothing of its ports")
            yield f"rediss://:s3cret@{HOST}:{port}/0"
    except RuntimeError as error:
        if "Bad directive" in str(error) or "tls" in str(error).lower():
            pytest.skip(f"{redis_program} was built without TLS")
        raise


def test_text_goes_over_tls_with_the_authority_in_the_url(tls_url: str, tmp_path: Path, joined: Joined) -> None:
    url = f"{tls_url}?ssl_ca_certs={tmp_path}/redis.crt"
    writer, reader = joined(url), joined(url)
    reader.shared.subscribe([GROUP])
    writer.write(GROUP, 1, 0, range(10))
    until(reader.has(GROUP, 1, range(10)))


def test_what_is_wrong_with_tls_is_said_without_the_password(tls_url: str, tmp_path: Path, joined: Joined) -> None:
    other, _ = certificate(tmp_path, "other")
    right = f"?ssl_ca_certs={tmp_path}/redis.crt"
    for url, said in (
        (f"{tls_url}?ssl_ca_certs={other}", "(?i)certificate verify failed"),
        (tls_url, "(?i)certificate verify failed"),
        (tls_url.replace("rediss:", "redis:"), "(?i)connection|reset|closed|protocol"),
        (tls_url.replace("s3cret", "wr0ng") + right, "(?i)auth|password"),
    ):
        with pytest.raises(BusError, match=said) as error:
            joined(url)
        assert "s3cret" not in str(error.value)
        assert "wr0ng" not in str(error.value)


def cluster_ports(count: int) -> list[int]:
    """Free ones whose bus ports are free as well, and none that Linux gives to an outgoing connection meanwhile."""
    found: list[int] = []
    for port in random.SystemRandom().sample(range(PORTS.start, PORTS.stop - BUS_ABOVE), 100):
        with suppress(ValueError):
            pick_port(port + BUS_ABOVE)
            found.append(pick_port(port))
        if len(found) == count:
            break
    return found


@pytest.fixture
def cluster(redis_program: str, tmp_path: Path) -> Iterator[list[RedisServer]]:
    """Three nodes without replicas."""
    client = shutil.which(redis_program.replace("-server", "-cli"))
    if client is None:
        pytest.skip(f"{redis_program} came without its client: no cluster can be made")
    flags = ("--cluster-enabled", "yes", "--cluster-node-timeout", "15000")
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(
                RedisServer(tmp_path, *flags, "--cluster-config-file", f"{port}.conf", program=redis_program, port=port)
            )
            for port in cluster_ports(NODES)
        ]
        places = [f"{HOST}:{node.port}" for node in nodes]
        command = [client, "--cluster", "create", *places, "--cluster-yes"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
        yield nodes


def test_a_cluster_spreads_groups_over_its_nodes(cluster: list[RedisServer], joined: Joined) -> None:
    url = f"redis+cluster://{HOST}:{cluster[0].port}"
    for node in cluster:
        until(lambda node=node: redis.Redis(port=node.port).cluster("info")["cluster_state"] == "ok")
    writer, reader = joined(url), joined(url)
    groups = range(60)
    reader.shared.subscribe(groups)
    for group in groups:
        writer.write(group, 1, 0, [group, 1])
    for group in groups:
        writer.write(group, 1, 2, [2], finished=True)
    for group in groups:
        until(reader.has(group, 1, [group, 1, 2]), f"group {group}")
    until(lambda: reader.take() is None and len(reader.finished) == len(groups))
    assert all(redis.Redis(port=node.port).dbsize() > 0 for node in cluster)
