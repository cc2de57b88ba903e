"""The pictures of docs/concepts.md. What can be computed by the code they explain, is."""

from __future__ import annotations

from docs.make.pictures_drafts import bus, tree
from docs.make.pictures_schedule import admission, divided, lengths


def drawings() -> dict[str, str]:
    """SVG by name."""
    return {"lengths": lengths(), "divided": divided(), "admission": admission(), "tree": tree(), "bus": bus()}
