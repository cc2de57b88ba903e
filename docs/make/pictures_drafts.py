"""Pictures of what is drafted: a tree and its verification, the token bus."""

from __future__ import annotations

from docs.make.svg import Board

# name: token, column, row; its parent; whether the walk passes it.
NODES = {
    "root": ("42", 0, 1, None, True),
    "so": (" so", 1, 0, "root", False),
    "comma": (",", 1, 1, "root", True),
    "next": (" Next", 1, 2, "root", False),
    "then": (" then", 2, 1, "comma", True),
    "and": (" and", 2, 2, "comma", False),
    "hash": (" #3", 3, 1, "then", False),
    "total": (" Total", 3, 0, "then", True),
    "colon": (":", 4, 1, "total", False),
}


def tree() -> str:
    board = Board(760, 424, "A draft tree from siblings' text, and its verification")
    board.text(24, 34, "Draft: where the text's end occurred before, what came next votes", "ink title")
    texts = (
        ("this response", "... 22+20 makes 42", "", "blue"),
        ("sibling 1", "... 22+20 makes 42", ", then Total: 42", "green"),
        ("sibling 2", "... 22+20 makes 42", ", then #3=4*5", "green"),
        ("sibling 3", "... 22+20 makes 42", ", and Next #3", "green"),
        ("another group", "... makes 42", " so Next #7", "grey"),
    )
    for place, (who, seen, follows, colour) in enumerate(texts):
        y = 60.0 + 22 * place
        board.circle(32, y - 4, 5, colour)
        board.text(46, y, who, "soft small")
        board.text(150, y, seen, "ink mono")
        board.text(150 + 7.25 * len(seen), y, follows, "soft mono")
    board.lines(
        458,
        60,
        (
            "Votes become probabilities by a calibration",
            "that is learnt from what is accepted.",
            "The nodes that pay, over the whole batch,",
            "under measured step times: best first.",
        ),
    )
    board.text(24, 196, "Verification: one forward over all nodes; each node draws its own next token", "ink title")
    places = {name: (62.0 + 118 * column, 246.0 + 46 * row) for name, (_, column, row, _, _) in NODES.items()}
    for name, (_, _, _, parent, passed) in NODES.items():
        if parent is not None:
            (x0, y0), (x1, y1) = places[parent], places[name]
            board.path([(x0 + 34, y0), (x1 - 36, y1)], "l-green" if passed else "edge", width=3 if passed else 1.2)
    for name, (token, _, _, _, passed) in NODES.items():
        x, y = places[name]
        board.rect(x - 34, y - 14, 68, 28, "green" if passed else "grey", round_px=14)
        board.text(x, y + 4, token.replace(" ", "␣"), "on mono" if passed else "ink mono", anchor="middle")
    x, y = places["total"]
    board.path([(x + 34, y - 8), (x + 84, y - 24)], "l-orange", width=3, tip=True)
    board.rect(x + 88, y - 40, 68, 28, "orange", round_px=14)
    board.text(x + 122, y - 22, "␣is", "on mono", anchor="middle")
    board.text(x + 166, y - 22, "bonus", "soft small")
    board.lines(
        24,
        372,
        (
            "A draw never looks at the drafts: it takes the target's distribution and the noise of (seed, position, token), as in plain",
            "decoding. The walk follows the child that equals the draw. Here three drafts are accepted, and the last draw is the",
            "bonus token: four tokens in one step.",
        ),
        step=16,
    )
    return board.svg()


def bus() -> str:
    board = Board(760, 306, "The token bus between two engines")
    board.text(24, 34, "Siblings on other engines draft, too", "ink title")
    for side, name in enumerate("ab"):
        left = 24.0 + 452 * side
        board.rect(left, 52, 260, 192, "panel", round_px=8)
        board.text(left + 14, 76, f"engine {name}", "ink title")
        board.rect(left + 14, 90, 232, 40, "blue pale")
        board.text(left + 24, 114, "decode step: draft, verify, accept")
        board.rect(left + 14, 142, 110, 86, "green pale")
        board.lines(left + 22, 162, ("draft index:", "own groups,", "siblings from", "elsewhere"), "ink small")
        board.rect(left + 136, 142, 110, 86, "orange pale")
        board.lines(
            left + 144, 162, ("background", "thread: sends,", "fetches, repairs,", "drops if full"), "ink small"
        )
    board.rect(310, 112, 140, 74, "purple pale", round_px=10)
    board.text(380, 136, "token bus", "ink title", anchor="middle")
    board.text(380, 155, "ZeroMQ or Redis", "soft small", anchor="middle")
    board.text(380, 172, "by group and weights", "soft small", anchor="middle")
    for y, ends in ((140, (288, 308)), (165, (308, 288))):
        board.path([(ends[0], y), (ends[1], y)], "edge", width=2, tip=True)
    for y, ends in ((140, (454, 474)), (165, (474, 454))):
        board.path([(ends[0], y), (ends[1], y)], "edge", width=2, tip=True)
    board.lines(
        24,
        268,
        (
            "Travels: generated tokens and lengths of groups that an engine serves, under one weight version. Prompts never do.",
            "A step takes what has arrived and never waits: late, lost or wrong text changes the speed, not the samples.",
        ),
        step=18,
    )
    return board.svg()
