"""Siblings must help: generated solutions of one problem, replayed as greedy verification would."""

from __future__ import annotations

import numpy as np
import pytest

from sglang_seer.draft import SuffixIndex

# Words are the tokens. Each solution draws its phrasing and slips once in a while, as samples do.
PHRASES = (
    "first add {a} and {b} to get {c}",
    "we add {a} and {b} which gives {c}",
    "now {a} plus {b} is {c} so we keep {c}",
    "so {a} and {b} together make {c}",
    "then take {a} and add {b} so that {c} is left",
)


def solution(numbers: list[int], random: np.random.Generator) -> list[str]:
    words: list[str] = ["let", "us", "think"]
    total = numbers[0]
    for number in numbers[1:]:
        slip = int(random.integers(0, 2)) if random.random() < 0.1 else 0
        result = total + number + slip
        phrase = PHRASES[random.choice(len(PHRASES), p=(0.5, 0.2, 0.1, 0.1, 0.1))]
        words += phrase.format(a=total, b=number, c=result).split()
        words += ["."] if random.random() < 0.8 else [",", "check", "again", "."]
        total = result
    return [*words, "the", "answer", "is", str(total)]


def mean_accepted(responses: list[list[int]], siblings: int, budget: int, chain: bool) -> float:
    """Tokens a verification step, the bonus token included, over all but the sibling responses."""
    tokens = steps = 0
    for target in range(siblings, len(responses)):
        index = SuffixIndex(vocab_size=10_000)
        index.open_group(0, [])
        for sibling in range(siblings):
            index.append([0], [sibling], [0], responses[sibling], [len(responses[sibling])])
        response, position = responses[target], 0
        while position < len(response):
            proposal = index.propose([0], [target], [budget], chain=chain)
            node, accepted = -1, 0
            for place, (token, parent) in enumerate(
                zip(proposal.tokens.tolist(), proposal.parents.tolist(), strict=True)
            ):
                here = position + accepted
                if parent == node and here < len(response) and response[here] == token:
                    node, accepted = place, accepted + 1
            new = response[position : position + accepted + 1]
            index.append([0], [target], [position], new, [len(new)])
            position += len(new)
            steps += 1
        tokens += len(response)
    return tokens / steps


@pytest.mark.parametrize(("budget", "chain"), [(8, False), (8, True), (16, False)])
def test_siblings_help(budget: int, chain: bool) -> None:
    """Five siblings accept at least half as much again; a draft that ignores them would not."""
    with_siblings, alone = [], []
    for problem in range(4):
        random = np.random.default_rng(problem)
        numbers = random.integers(1, 60, 12).tolist()
        texts = [solution(numbers, random) for _ in range(8)]
        ids = {word: i for i, word in enumerate(sorted({w for text in texts for w in text}))}
        responses = [[ids[word] for word in text] for text in texts]
        with_siblings.append(mean_accepted(responses, 5, budget, chain))
        alone.append(mean_accepted(responses[5:], 0, budget, chain))
    print(f"budget {budget} chain {chain}: {np.mean(alone):.2f} -> {np.mean(with_siblings):.2f}")
    assert np.mean(with_siblings) > 1.5 * np.mean(alone)
