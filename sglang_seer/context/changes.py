"""Which groups' answers changed since a caller last looked."""

from __future__ import annotations

from collections.abc import Sequence

_MOST_KEPT = 4096


class Changes:
    """Versions of a table of answers, and the groups between two of them."""

    def __init__(self) -> None:
        self.version = 0
        self._since = 0
        self._groups: list[str] = []

    def one(self, group: str) -> None:
        """A group's answers changed."""
        if len(self._groups) == _MOST_KEPT:
            self.all()
            return
        self._groups.append(group)
        self.version += 1

    def all(self) -> None:
        """Any answer may have changed."""
        self.version += 1
        self._since = self.version
        self._groups.clear()

    def since(self, version: int) -> Sequence[str] | None:
        """Groups that changed after that version, possibly more than once; None when all may have."""
        return None if version < self._since else self._groups[version - self._since :]
