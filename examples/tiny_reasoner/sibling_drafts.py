"""How far siblings predict each other, replayed on recorded responses: what grouped drafting has to work with.

Replaying is exact at any temperature: lossless verification accepts a drafted token if it equals the drawn one, and
the drawn ones are recorded.
"""

from collections import Counter, defaultdict

MAX_CONTEXT = 12

Table = dict[tuple[int, ...], Counter[int]]


def mean_acceptance_length(groups: list[list[list[int]]], *, draft_tokens: int) -> float:
    """Mean tokens gained per verify step, bonus token included, one linear draft of at most `draft_tokens` a step.

    Each response is drafted from the earlier ones of its group and its own past (the first one from itself alone):
    the next token is the most frequent follower of the longest known context, of at most MAX_CONTEXT tokens.
    """
    tokens = steps = 0
    for group in groups:
        table: Table = defaultdict(Counter)
        for response in group:
            tokens += len(response)
            steps += _replay(table, response, draft_tokens)
    return tokens / steps


def _replay(table: Table, response: list[int], draft_tokens: int) -> int:
    """Number of verify steps for `response`; its tokens enter the table as they are accepted."""
    steps = done = 0
    while done < len(response):
        at = done
        last_draft = min(done + draft_tokens, len(response))
        while at < last_draft and _predict(table, response, at) == response[at]:
            at += 1
        bonus_end = min(at + 1, len(response))
        for known in range(done, bonus_end):
            for length in range(min(MAX_CONTEXT, known) + 1):
                table[tuple(response[known - length : known])][response[known]] += 1
        done = bonus_end
        steps += 1
    return steps


def _predict(table: Table, ids: list[int], at: int) -> int | None:
    for length in range(min(MAX_CONTEXT, at), -1, -1):
        followers = table.get(tuple(ids[at - length : at]))
        if followers:
            return followers.most_common(1)[0][0]
    return None
