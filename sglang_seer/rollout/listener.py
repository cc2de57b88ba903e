"""Whoever follows one request chunk by chunk, as frameworks do that keep more of a sample than tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from sglang_seer.rollout.stream import Part
from sglang_seer.rollout.verdict import Verdict


class ChunkListener(Protocol):
    """Of one request. A part has `meta`, all that the engine said in the chunk's last event."""

    def body(self) -> Mapping[str, Any]:
        """What the next chunk's body has besides tokens and sampling parameters."""

    def usable(self, part: Part) -> bool:
        """Whether what came of a chunk may be kept; if not, the chunk counts as if nothing had come."""

    def kept(self, part: Part, verdict: Verdict) -> None:
        """A chunk has ended, and this was kept of it: `verdict` may have fewer tokens than `part`."""
