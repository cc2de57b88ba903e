"""The URL that chooses a bus: what it means, and what is said of one that is wrong."""

from __future__ import annotations

import pytest

from sglang_seer.config import parse_config
from sglang_seer.draft.bus import parse_address, without_password
from sglang_seer.draft.bus.address import Address
from sglang_seer.status import Status


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("inproc:", Address("inproc", "")),
        ("inproc:name", Address("inproc", "name")),
        ("ipc:///tmp/bus", Address("ipc", "/tmp/bus")),
        ("tcp://h:1?peer=a:2&peer=b:3", Address("tcp", "h:1", ("a:2", "b:3"))),
        ("redis://h:1/2", Address("redis", "redis://h:1/2")),
        ("rediss://:pw@h:1/2", Address("redis", "rediss://:pw@h:1/2")),
        ("redis+cluster://h:1", Address("redis", "redis://h:1", cluster=True)),
    ],
)
def test_urls(url: str, address: Address) -> None:
    assert parse_address(url) == address


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "unknown scheme ''"),
        ("kafka://h:1", "unknown scheme 'kafka'"),
        ("ipc://host/path", "three slashes"),
        ("ipc:///", "a folder of its own"),
        ("tcp://h", "a port"),
        ("tcp://h:1?peer=a", "peer=HOST:PORT"),
        ("tcp://h:1?other=a", "peer=HOST:PORT"),
        ("tcp://h:99999", "out of range"),
        ("redis:///0", "needs a host"),
        ("redis://h/x", "is no number"),
        ("redis://:s3cret@h:x", "wanted one of"),
    ],
)
def test_a_wrong_url_is_named_with_what_was_wanted_and_without_its_password(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        parse_address(url)
    assert "bus: got" in str(error.value)
    assert "s3cret" not in str(error.value)
    with pytest.raises(ValueError, match=said) as error:
        parse_config({"bus": url})
    assert "s3cret" not in str(error.value)


def test_the_configs_password_is_not_shown() -> None:
    config = parse_config({"bus": "redis://user:s3cret@h:1/0"})
    assert config.shares
    assert "s3cret" not in str(Status(config=config).as_dict())
    assert Status(config=config).as_dict()["config"]["bus"] == "redis://***@h:1/0"
    assert without_password("redis://h:1/0") == "redis://h:1/0"


def test_sharing_needs_drafts_to_share_for() -> None:
    with pytest.raises(ValueError, match="speculation = true"):
        parse_config({"bus": "redis://h:1/0", "speculation": False})
    assert not parse_config({"speculation": False}).shares
