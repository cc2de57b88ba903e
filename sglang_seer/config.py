"""The one configuration of Seer: few knobs, good defaults, an unknown key is an error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG_ENV = "SGLANG_SEER_CONFIG"
MODE_ENV = "SGLANG_SEER"

Mode = Literal["off", "observe", "on"]


class SeerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All options.

    speculation: grouped speculative decoding; False keeps SGLang's plain decoding and only schedules.
    draft_nodes: most draft tokens verified for a request in one step, 1 to 63.
    draft_depth: longest path of a draft tree, 1 to 63.
    starvation_limit: a request goes first once this many others were admitted while it waited.
    overflow_risk: chance, taken with each admission, that the KV pool overflows before somebody finishes, so that
        requests are retracted, times the requests that run then: with 1.0, one in twenty where twenty run, and nine in
        ten at most. 0 keeps SGLang's own reserve. The controller's option of that name is the chance itself.
    chunk_tokens: after so many generated tokens a request makes room if a better one waits and cannot join besides; its
        KV stays in the prefix cache. 0 never; needs an overflow_risk above 0.
    draft_memory: after a weight update, let responses of the weights before serve as drafts for the same prompts.
    step_time_profile: JSON file of step times to start from; they are learnt while serving anyway.
    index_max_tokens: responses and prompts kept as draft source, in tokens, over all groups.
    index_max_bytes: memory of that text and its index.
    index_ttl_steps: a group is dropped when it was not drafted for in so many decode steps; 0 keeps it.
    bus: where engines share text, so that siblings on other engines draft, too; see `sglang_seer.draft.bus`.
    bus_required: refuse to start if the bus cannot be joined; False warns and drafts from local text.
    """

    speculation: bool = True
    draft_nodes: int = 16
    draft_depth: int = 16
    starvation_limit: int = 4096
    overflow_risk: float = 1.0
    chunk_tokens: int = 4096
    draft_memory: bool = False
    step_time_profile: str | None = None
    index_max_tokens: int = 50_000_000
    index_max_bytes: int = 2 << 30
    index_ttl_steps: int = 0
    bus: str = "inproc:"
    bus_required: bool = True

    def __post_init__(self) -> None:
        bounds = {
            "draft_nodes": (1, 63),
            "draft_depth": (1, 63),
            "starvation_limit": (1, 1_000_000_000),
            "overflow_risk": (0.0, 1000.0),
            "chunk_tokens": (0, 1_000_000_000),
            "index_max_tokens": (1024, 10_000_000_000),
            "index_max_bytes": (32 << 20, 64 << 30),
            "index_ttl_steps": (0, 1_000_000_000),
        }
        wrong = [
            f"{name} = {value}, wanted {low} to {high}"
            for name, (low, high) in bounds.items()
            if not low <= (value := getattr(self, name)) <= high
        ]
        if self.shares:
            # Only here: who shares nothing needs nothing of it.
            from sglang_seer.draft.bus.address import parse_address

            try:
                parse_address(self.bus)
            except ValueError as error:
                wrong.append(str(error))
            if not self.speculation:
                wrong.append("bus: text is shared for drafts, wanted speculation = true with it")
        if wrong:
            raise ValueError("; ".join(wrong))

    @property
    def shares(self) -> bool:
        """Whether text is shared with other engines; a scheduler process holds only one."""
        return self.bus.partition(":")[0] != "inproc"

    def shown(self) -> dict[str, Any]:
        """All options, without the password of a URL."""
        options = {name: getattr(self, name) for name in self.__struct_fields__}
        if self.shares:
            from sglang_seer.draft.bus.address import without_password

            options["bus"] = without_password(self.bus)
        return options


def parse_config(source: SeerConfig | Mapping[str, Any] | str | Path | None) -> SeerConfig:
    """Read a config from a mapping, inline JSON, or the path of a .json or .toml file; None gives the defaults.

    Raises ValueError naming the source, what was seen and what was wanted.
    """
    if source is None:
        return SeerConfig()
    if isinstance(source, SeerConfig):
        return source
    label = "Seer config"
    try:
        if isinstance(source, Mapping):
            return msgspec.convert(dict(source), SeerConfig)
        text = str(source)
        if text.lstrip().startswith("{"):
            return msgspec.json.decode(text, type=SeerConfig)
        label = f"Seer config {text!r}"
        path = Path(text)
        if path.suffix == ".toml":
            return msgspec.convert(tomllib.loads(path.read_text()), SeerConfig)
        if path.suffix == ".json":
            return msgspec.convert(json.loads(path.read_text()), SeerConfig)
        raise ValueError(f"wanted inline JSON or a file that ends in .json or .toml, got {path.suffix!r}")
    except OSError as error:
        raise ValueError(f"{label}: cannot read it: {error.strerror}") from error
    except (ValueError, TypeError) as error:  # msgspec, json and toml errors are ValueErrors
        known = ", ".join(SeerConfig.__struct_fields__)
        raise ValueError(f"{label}: {error} (known keys: {known})") from error


def mode_from_environment() -> Mode | None:
    """SGLANG_SEER, or None when it is not set. Raises ValueError for anything but off, observe, on."""
    value = os.environ.get(MODE_ENV, "").strip().lower()
    match value:
        case "":
            return None
        case "off" | "observe" | "on":
            return value
    raise ValueError(f"{MODE_ENV}: got {value!r}, wanted off, observe or on")
