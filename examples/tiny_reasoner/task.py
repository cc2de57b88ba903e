"""Long sums with written-out steps: the problems, and the texts a model learns from.

A problem is a labelled list of terms. A solution adds them in blocks of four, digit by digit, so that its
length follows the number of terms. Samples for one problem restate the same block sums; they differ in block order,
wording, re-checks and an occasional second pass. That is what siblings of a real rollout look like to a drafter.
"""

import hashlib
import math
import random
from dataclasses import dataclass

BLOCK_TERMS = 4
MAX_TERMS = 32
# Above this many terms no second pass and few re-checks, so that every solution stays below 2,048 tokens.
VERIFY_MAX_TERMS = 12
LEVELS = ("easy", "mixed")
HELD_OUT_SHARE = 8

OPENINGS = ("Find the total of", "Add up", "What is the sum of")
LEADS = ("Now", "Then", "Next")
RESULTS = ("so", "which makes", "that is")
COLUMNS = ("ones", "tens", "hundreds", "thousands")
# How often a response keeps to its own favourite wording.
HABIT = 0.75


@dataclass(frozen=True, slots=True)
class Problem:
    """Terms are plain numbers (`34`) or products of two digits (`6*8`), in label order #1, #2, ..."""

    opening: str
    terms: tuple[str, ...]

    @property
    def prompt(self) -> str:
        """The user's text, without any chat template."""
        return f"{self.opening} " + ", ".join(f"#{i}={t}" for i, t in enumerate(self.terms, 1)) + "."

    @property
    def answer(self) -> int:
        return sum(term_value(t) for t in self.terms)

    @property
    def held_out(self) -> bool:
        """True where the problem belongs to the test split.

        Decided by a hash of the terms alone, so another opening cannot carry a test problem into training.
        """
        digest = hashlib.sha256(",".join(self.terms).encode()).digest()
        return digest[0] % HELD_OUT_SHARE == 0


def term_value(term: str) -> int:
    return math.prod(int(factor) for factor in term.split("*"))


def draw_problem(rng: random.Random, *, level: str, held_out: bool, num_terms: int | None = None) -> Problem:
    """Draw until the hash puts the problem on the wanted side of the split.

    `easy`: 2 to 6 small terms. `mixed`: a log-normal number of terms, most few, some up to MAX_TERMS.
    `num_terms` overrides the number (training uses it for its curriculum).
    """
    if level not in LEVELS:
        raise ValueError(f"level: saw {level!r}, wanted one of {', '.join(LEVELS)}")
    while True:
        count = num_terms or _draw_num_terms(rng, level)
        terms = tuple(_draw_term(rng, level) for _ in range(count))
        problem = Problem(opening=rng.choice(OPENINGS), terms=terms)
        if problem.held_out == held_out:
            return problem


def _draw_num_terms(rng: random.Random, level: str) -> int:
    if level == "easy":
        return rng.randint(2, 6)
    return min(MAX_TERMS, max(2, round(rng.lognormvariate(math.log(3.5), 0.8))))


def _draw_term(rng: random.Random, level: str) -> str:
    top_number, top_factor = (20, 5) if level == "easy" else (99, 9)
    if rng.random() < 0.2:
        return f"{rng.randint(2, top_factor)}*{rng.randint(2, top_factor)}"
    return str(rng.randint(1, top_number))


def write_solution(problem: Problem, rng: random.Random) -> str:
    """One correct response, without the end token. The same problem with another `rng` state reads differently."""
    return _Writer(problem, rng).write()


class _Writer:
    """Holds what stays the same within one response: its favourite words and how often it re-checks."""

    def __init__(self, problem: Problem, rng: random.Random) -> None:
        self.rng = rng
        self.terms = problem.terms
        self.answer = problem.answer
        self.short = len(self.terms) <= VERIFY_MAX_TERMS
        careful = self.short and rng.random() < 0.15
        self.recheck_rate = 0.5 if careful else 0.06
        self.favourites: dict[tuple[str, ...], str] = {words: rng.choice(words) for words in (LEADS, RESULTS)}

    def write(self) -> str:
        forward = self.rng.random() < 0.7
        out = [self._plan("Plan", forward), *self._pass(forward)]
        if self.short and self.rng.random() < 0.08:
            out += [self._plan("Verify", not forward), *self._pass(not forward)]
        return "".join(out) + f"Answer: {self.answer}"

    def _plan(self, word: str, forward: bool) -> str:
        ends = (1, len(self.terms)) if forward else (len(self.terms), 1)
        return f"{word}: from #{ends[0]} to #{ends[1]}.\n"

    def _pass(self, forward: bool) -> list[str]:
        starts = list(range(0, len(self.terms), BLOCK_TERMS))
        total: int | None = None
        out: list[str] = []
        for start in starts if forward else reversed(starts):
            labels = range(start + 1, min(start + BLOCK_TERMS, len(self.terms)) + 1)
            lines, part = self._block(labels)
            span = f"#{labels[0]} to #{labels[-1]}"
            out += [f"Part {span}.\n", *lines]
            if self.rng.random() < self.recheck_rate:
                out += [f"Wait, check {span} again.\n", *self._block(labels)[0], f"Good, again {part}.\n"]
            out.append(f"Total {part}.\n" if total is None else f"Total {self._addition(total, part)}.\n")
            total = part + (total or 0)
        assert total == self.answer
        return out

    def _block(self, labels: range) -> tuple[list[str], int]:
        lines: list[str] = []
        running = 0
        for label in labels:
            term = self.terms[label - 1]
            value = term_value(term)
            shown = f"{term}={value}" if "*" in term else term
            head = f"{self._word(LEADS)} #{label}={shown}"
            lines.append(f"{head}.\n" if label == labels[0] else f"{head}: {self._addition(running, value)}.\n")
            running += value
        return lines, running

    def _addition(self, a: int, b: int) -> str:
        """`34+7, ones 4+7=11, tens 3+0+1=4, so 41`: each column with its carry, lowest first."""
        digits_a, digits_b = str(a)[::-1], str(b)[::-1]
        columns: list[str] = []
        carry = 0
        for i, name in enumerate(COLUMNS[: len(str(a + b))]):
            x, y = (int(d[i]) if i < len(d) else 0 for d in (digits_a, digits_b))
            pair = f"{y}+{x}" if i == 0 and self.rng.random() < 0.2 else f"{x}+{y}"
            total = x + y + carry
            columns.append(f"{name} {pair}={total}" if i == 0 else f"{name} {pair}+{carry}={total}")
            carry = total // 10
        return f"{a}+{b}, {', '.join(columns)}, {self._word(RESULTS)} {a + b}"

    def _word(self, words: tuple[str, ...]) -> str:
        return self.favourites[words] if self.rng.random() < HABIT else self.rng.choice(words)
