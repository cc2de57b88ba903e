"""Pictures of what is scheduled: lengths, divided rollout, admission."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from docs.make.svg import Board
from sglang_seer.context.lengths import ContextLengths

COLOURS = ("blue", "orange", "green", "purple")
LIMIT_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    finished: tuple[int, ...] = ()
    running: tuple[int, ...] = ()


GROUPS = (
    Group("g1: three finished, short", (390, 460, 620)),
    Group("g2: two finished, long", (2900, 3700)),
    Group("g3: none finished, one runs since 2,400 tokens", (), (2400,)),
    Group("g4: nothing is known", ()),
)


def lengths() -> str:
    """What `ContextLengths` believes of one more sibling of each group."""
    known = ContextLengths()
    for group in GROUPS:
        known.touch(group.name, LIMIT_TOKENS)
        for member, tokens in enumerate(group.finished):
            known.finish(group.name, tokens, member=member, limit_tokens=LIMIT_TOKENS)
        for member, tokens in enumerate(group.running):
            known.progress(group.name, f"running {member}", tokens)
    known.fit()
    board = Board(760, 350, "Length estimates of four groups")
    board.text(24, 34, "How long will the next sibling get?", "ink title")
    board.text(24, 54, "Computed by sglang_seer/context for a limit of 8,192 tokens", "soft small")
    left, scale = 30.0, 690.0 / LIMIT_TOKENS
    for place, group in enumerate(GROUPS):
        y, colour = 84.0 + 58 * place, COLOURS[place]
        board.text(left, y, group.name)
        low, middle, high, most = (
            left + scale * known.remaining(group.name, 0, LIMIT_TOKENS).quantile(q) for q in (0.1, 0.5, 0.9, 0.999)
        )
        board.path([(left, y + 20), (left + scale * LIMIT_TOKENS, y + 20)], "faint", width=1)
        board.path([(high, y + 20), (most, y + 20)], f"l-{colour}", width=2, dash="4 3")
        board.path([(most, y + 13), (most, y + 27)], f"l-{colour}", width=2)
        board.rect(low, y + 12, high - low, 16, f"{colour} pale")
        board.path([(middle, y + 11), (middle, y + 29)], f"l-{colour}", width=3)
        for tokens in group.finished:
            board.circle(left + scale * tokens, y + 20, 4.5, "ink")
        for tokens in group.running:
            board.path([(left, y + 20), (left + scale * tokens, y + 20)], "edge", width=2.5, tip=True)
    for tokens in (0, 2048, 4096, 6144, LIMIT_TOKENS):
        board.text(left + scale * tokens, 312, f"{tokens:,}", "soft small", anchor="middle")
    board.text(
        24,
        336,
        "dot: finished · arrow: unfinished · box: 10% to 90%, bar: median · dashes end at what one in a thousand exceeds",
        "soft small",
    )
    return board.svg()


# Four groups of four: tokens each member will generate. Two engines with two places each.
MEMBERS = ((6, 7, 8, 7), (17, 20, 18, 22), (5, 4, 6, 5), (9, 8, 10, 9))
PLACES, CHUNK = 2, 4


@dataclass(frozen=True, slots=True)
class Bar:
    engine: int
    place: int
    start: int
    tokens: int
    group: int


def whole_groups() -> list[Bar]:
    """Groups go to the engines in turn and stay there, first come first served."""
    bars = []
    for engine in range(2):
        free = [(0, place) for place in range(PLACES)]
        heapify(free)
        for group in range(engine, len(MEMBERS), 2):
            for tokens in MEMBERS[group]:
                start, place = heappop(free)
                bars.append(Bar(engine, place, start, tokens, group))
                heappush(free, (start + tokens, place))
    return bars


def chunks() -> list[Bar]:
    """One buffer, chunks of CHUNK tokens, wherever a place is free; whoever needs most goes first.

    One member of each group goes before all: it tells how long its siblings get.
    """
    left = {(group, member): tokens for group, one in enumerate(MEMBERS) for member, tokens in enumerate(one)}
    ready = dict.fromkeys(left, 0)
    probes = {(group, 0) for group in range(len(MEMBERS))}
    free = [(0, engine, place) for place in range(PLACES) for engine in range(2)]
    heapify(free)
    bars = []
    while left:
        now, engine, place = heappop(free)
        # A request runs in one place at a time.
        able = [request for request in left if ready[request] <= now]
        if not able:
            heappush(free, (min(ready[request] for request in left), engine, place))
            continue
        request = max(able, key=lambda one: (one in probes, left[one], -one[0], -one[1]))
        tokens = min(CHUNK, left[request])
        bars.append(Bar(engine, place, now, tokens, request[0]))
        left[request] -= tokens
        ready[request] = now + tokens
        if not left[request]:
            del left[request]
        heappush(free, (now + tokens, engine, place))
    return bars


def divided() -> str:
    board = Board(760, 330, "Whole groups on engines, and divided rollout")
    sides = (
        ("Whole groups on an engine, in turn", whole_groups()),
        ("Divided rollout: chunks from one buffer", chunks()),
    )
    longest = max(bar.start + bar.tokens for _, bars in sides for bar in bars)
    for side, (title, bars) in enumerate(sides):
        top, left, scale = 40.0 + 140 * side, 96.0, 640.0 / longest
        board.text(24, top - 10, title, "ink title")
        for engine in range(2):
            board.rect(left - 4, top + 48 * engine, 648, 44, "panel")
            board.text(24, top + 48 * engine + 27, f"engine {'ab'[engine]}", "soft")
        for bar in bars:
            x, y = left + scale * bar.start, top + 48 * bar.engine + 3 + 20 * bar.place
            board.rect(x + 0.75, y, scale * bar.tokens - 1.5, 17, COLOURS[bar.group], round_px=3)
        end = left + scale * max(bar.start + bar.tokens for bar in bars)
        board.path([(end, top - 4), (end, top + 98)], "l-red", width=2)
        board.text(
            end - 6 if side == 0 else end + 6, top - 10, "done", "ink small", anchor="end" if side == 0 else "start"
        )
    for group, colour in enumerate(COLOURS):
        board.rect(96 + 92 * group, 298, 14, 14, colour, round_px=3)
        board.text(116 + 92 * group, 310, f"group {group + 1}", "soft small")
    board.text(736, 310, "time in steps; the same work in both", "soft small", anchor="end")
    return board.svg()


# KV held now and tokens still to come, of running requests; what a joining one would bring.
RUNNING = ((700, 500), (500, 900), (400, 1400), (600, 300))
FITS, TOO_MUCH = (200, 600), (900, 1500)
POOL_TOKENS = 4100


def use(requests: Sequence[tuple[int, int]], tokens: int) -> int:
    """KV slots after every running request gained so many tokens."""
    return sum(held + tokens for held, left in requests if tokens < left)


def admission() -> str:
    board = Board(760, 372, "Order of waiting requests, and admission by the KV pool over time")
    board.text(24, 34, "Order", "ink title")
    rows = (
        ("overdue", "passed by starvation_limit times", "red"),
        ("probes", "tell most of their group; fewest tokens first", "blue"),
        ("the rest", "whoever may need most tokens still", "green"),
    )
    for place, (name, said, colour) in enumerate(rows):
        y = 54.0 + 44 * place
        board.rect(24, y, 290, 38, f"{colour} pale")
        board.text(34, y + 16, name, "ink")
        board.text(34, y + 31, said, "soft small")
    board.path([(332, 54), (332, 180)], "edge", tip=True)
    board.lines(
        24,
        210,
        (
            "May need: what one response in a thousand exceeds,",
            "in steps of a quarter octave, then by arrival.",
            "",
            "The first of the order joins if the pool holds until",
            "somebody finishes, but for a stated chance.",
            "After chunk_tokens a running request makes room for",
            "a better one that cannot join besides. Its KV stays",
            "in the prefix cache.",
        ),
    )
    board.text(376, 34, "Admission: KV in use if it joins", "ink title")
    left, bottom, across, up = 390.0, 318.0, 340.0 / 1500, 240.0 / 5000
    board.rect(left, bottom - 240, 340, 240, "panel", round_px=0)

    def curve(requests: Sequence[tuple[int, int]]) -> list[tuple[float, float]]:
        ends = sorted({end for _, left_tokens in requests for end in (left_tokens - 1, left_tokens)} | {0, 1500})
        return [(left + across * t, bottom - up * use(requests, t)) for t in ends if t <= 1500]

    pool = bottom - up * POOL_TOKENS
    board.path([(left, pool), (left + 340, pool)], "l-red", width=2, dash="6 4")
    board.text(left + 336, pool - 7, "KV pool", "ink small", anchor="end")
    for joining, colour, width in (((), "edge", 2.0), ((FITS,), "l-green", 2.5), ((TOO_MUCH,), "l-orange", 2.5)):
        board.path(curve((*RUNNING, *joining)), colour, width=width)
    board.text(left, bottom + 18, "now", "soft small")
    board.text(left + 340, bottom + 18, "tokens each running request gains", "soft small", anchor="end")
    for place, (name, kind) in enumerate(
        (("running", "tip"), ("+ one that fits", "green"), ("+ one that would overflow", "orange"))
    ):
        x = left - 14 + (0, 78, 186)[place]
        board.rect(x, bottom + 32, 12, 12, kind, round_px=3)
        board.text(x + 17, bottom + 42, name, "soft small")
    return board.svg()
