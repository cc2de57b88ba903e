"""What a model of response lengths is asked."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol

from sglang_seer.context.remaining import Remaining


class LengthModel(Protocol):
    """What schedules ask. `version` grows whenever an answer may have changed enough to matter."""

    @property
    def version(self) -> int: ...

    def changed(self, version: int) -> Sequence[str] | None:
        """Groups whose answers changed after that version; None when any may have."""
        ...

    def finish(
        self, group: str, tokens: int, *, member: Hashable | None = None, limit_tokens: int | None = None
    ) -> None:
        """A member ended after `tokens` response tokens, by itself or at its limit.

        member: its name in `progress`. limit_tokens: with it, a response that was cut counts as "at least so long".
        """
        ...

    def progress(self, group: str, member: Hashable, tokens: int) -> None:
        """An unfinished member is this long."""
        ...

    def lost(self, group: str, member: Hashable) -> None:
        """A member went without a length (aborted)."""
        ...

    def remaining(
        self, group: str, generated_tokens: int, limit_tokens: int, *, member: Hashable | None = None
    ) -> Remaining:
        """Of an unfinished response. member: its name in `progress`, so that its own length counts once."""
        ...

    def expected_tokens(self, group: str, limit_tokens: int) -> float:
        """Of a whole new response: what groups are ordered by."""
        ...

    def information(self, group: str, running: int) -> float:
        """How much one more finished member is expected to move the group's log length (a standard deviation).

        running: members that will have finished before. math.inf where nothing at all is known without it.
        """
        ...

    def finished(self, group: str) -> int:
        """Members of the group that ended."""
        ...

    def untold(self, group: str) -> bool:
        """Whether nothing is known of the group itself: for all such groups the answers are the same."""
        ...

    def touch(self, group: str, limit_tokens: int | None = None) -> None:
        """Mark a group as in use: the group untouched for longest is forgotten first.

        limit_tokens: of a response that is asked for.
        """
        ...

    def clear(self) -> None:
        """Forget everything: the weights changed."""
        ...

    def __len__(self) -> int:
        """Groups known."""
        ...


def check_length(tokens: int) -> None:
    """Raises ValueError for a negative number of tokens."""
    if tokens < 0:
        raise ValueError(f"tokens: got {tokens}, wanted the length of a response")
