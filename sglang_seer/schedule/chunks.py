"""Whether a running request makes room for a better one at the end of its chunk.

A yield costs a page of prefill and a place in the queue, so it needs a reason: somebody waits who cannot join besides,
and who is overdue, or a probe, or is expected to need more tokens by at least one step of the order. Without that rule
two equals would change places at every boundary.
"""

from __future__ import annotations

from sglang_seer.schedule.policy import Decision, Rules


def reason_to_yield(decision: Decision, expected_tokens: float, *, room: int, rules: Rules) -> str | None:
    """Why the request should yield to the best waiting one, or None if it should go on.

    decision: the order of those that wait. expected_tokens: what this request is expected to need still. room: how many
    from the head of the order join in this pass anyway (`admit`), so that nobody has to go for them. Raises ValueError
    for impossible arguments.
    """
    if expected_tokens <= 0:
        raise ValueError(f"expected_tokens: got {expected_tokens}, wanted a positive number of tokens")
    if room < 0:
        raise ValueError(f"room: got {room}, wanted 0 or more")
    if room >= len(decision.order):
        return None
    if room < decision.overdue + decision.probes:
        return decision.reason(room)
    rank, best = decision.rank(room)
    if rank < rules.rank(expected_tokens):
        return f"longer first: {best:,.0f} tokens expected of a waiting request, {expected_tokens:,.0f} of this one"
    return None
