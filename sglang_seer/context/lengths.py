"""Length estimates from finished siblings (Seer, OSDI 2026, section 3.3)."""

from __future__ import annotations


def estimate_tokens(longest_finished_tokens: int | None, limit_tokens: int) -> int:
    """Expected response length of an unfinished member of a group, in tokens.

    The paper's rule: the longest finished sibling; the generation limit while none has finished, so that an
    unknown group counts as long until its probe says otherwise. Never above the limit.
    """
    if longest_finished_tokens is None:
        return limit_tokens
    return min(longest_finished_tokens, limit_tokens)
