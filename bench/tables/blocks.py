"""Marked places of a page: what stands between `<!-- table: NAME -->` and `<!-- /table -->` is generated."""

from __future__ import annotations

import re
from collections.abc import Callable

BEGIN = re.compile(r"<!-- table: (?P<name>[\w-]+) -->")
END = "<!-- /table -->"


def names(page: str) -> list[str]:
    """Of the tables a page has places for, in their order."""
    return [found["name"] for found in BEGIN.finditer(page)]


def filled(page: str, render: Callable[[str], str]) -> str:
    """The page with every place filled anew. Raises ValueError for a place without an end."""
    parts, rest = [], page
    while found := BEGIN.search(rest):
        end = rest.find(END, found.end())
        following = BEGIN.search(rest, found.end())
        if end < 0 or (following and following.start() < end):
            raise ValueError(f"{found[0]}: wanted {END} behind it, saw none")
        parts.append(f"{rest[: found.end()]}\n{render(found['name'])}\n{END}")
        rest = rest[end + len(END) :]
    if END in rest:
        raise ValueError(f"{END}: wanted <!-- table: NAME --> before it, saw none")
    return "".join([*parts, rest])
