"""The exact law of what verification emits, for vocabularies and trees small enough to enumerate.

Two ways that share no code: plain decoding written out in Python from the definition of the filters, and verification
with every outcome of every draw put through the walk under test. Lossless means that the two laws are one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from sglang_seer.verify.walk import Accepted, accept_path

Law = dict[tuple[int, ...], float]
Prefix = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Sampling parameters of one request; top_k 1 is greedy."""

    temperature: float = 1.0
    top_k: int = 1 << 30
    top_p: float = 1.0
    min_p: float = 0.0


def draw_law(logits: Sequence[float], settings: Settings) -> list[float]:
    """Probability of each token in one draw, written out from the definition."""
    largest = max(logits)
    if settings.top_k == 1:
        first = list(logits).index(largest)
        return [float(token == first) for token in range(len(logits))]
    weights = [math.exp((logit - largest) / settings.temperature) for logit in logits]
    mass = math.fsum(weights)
    probs = [weight / mass for weight in weights]
    ranking = sorted(range(len(probs)), key=lambda token: (-probs[token], token))
    kept = []
    for rank, token in enumerate(ranking):
        before = math.fsum(probs[other] for other in ranking[:rank])
        if rank < settings.top_k and before <= settings.top_p and probs[token] >= settings.min_p * probs[ranking[0]]:
            kept.append(token)
    kept_mass = math.fsum(probs[token] for token in kept)
    return [probs[token] / kept_mass if token in kept else 0.0 for token in range(len(probs))]


def decoding_law(logits_of: Callable[[Prefix], Sequence[float]], settings: Settings, steps: int) -> Law:
    """Probability of every sequence of `steps` tokens under plain decoding. logits_of: the model, from a prefix."""
    law: Law = {(): 1.0}
    for _ in range(steps):
        law = {
            (*prefix, token): probability * share
            for prefix, probability in law.items()
            for token, share in enumerate(draw_law(logits_of(prefix), settings))
        }
    return law


def node_prefixes(tokens: Sequence[int], parents: Sequence[int]) -> list[Prefix]:
    """Draft tokens on the path to each node, its own last; the root's is empty."""
    prefixes: list[Prefix] = []
    for token, parent in zip(tokens, parents, strict=True):
        prefixes.append(() if parent < 0 else (*prefixes[parent], token))
    return prefixes


def run_laws(
    tokens: torch.Tensor,
    parents: torch.Tensor,
    node_laws: torch.Tensor,
    accept: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Accepted] = accept_path,
) -> list[Law]:
    """For each of some trees, the probability of every run of tokens that the walk may emit.

    tokens, parents: [trees, width]. node_laws: [trees, width, vocab], law of the draw at each node. The walk sees one
    draw at each depth only, so the draws of a depth may be one; all combinations of them go through `accept`.
    """
    trees, width = tokens.shape
    vocab = node_laws.shape[2]
    depths = torch.zeros((trees, width), dtype=torch.long)
    for node in range(1, width):
        parent = parents[:, node].long()
        above = depths.gather(1, parent.clamp(min=0)[:, None]).view(-1)
        depths[:, node] = torch.where(parent >= 0, above + 1, 0)
    levels = int(depths.max()) + 1
    combinations = torch.cartesian_prod(*[torch.arange(vocab)] * levels).view(-1, levels)
    count = len(combinations)
    drawn = combinations[:, depths].transpose(0, 1).reshape(trees * count, width)
    accepted = accept(tokens.repeat_interleave(count, 0), parents.repeat_interleave(count, 0), drawn)
    laws: list[Law] = [{} for _ in range(trees)]
    # No run is longer than there are levels.
    columns = (accepted.tokens[:, :levels].tolist(), accepted.nodes[:, :levels].tolist(), accepted.lengths.tolist())
    emitted = zip(*columns, strict=True)
    shares = node_laws.tolist()
    for case, (run, rows, length) in enumerate(emitted):
        tree = case // count
        laws[tree][tuple(run[:length])] = math.prod(
            shares[tree][row % width][token] for row, token in zip(rows[:length], run, strict=False)
        )
    return laws


def completed(runs: Law, plain: Sequence[Law]) -> Law:
    """The law of len(plain) - 1 tokens when every run is continued by plain decoding.

    plain: entry n is the law of n tokens under plain decoding. A run that it gives no probability stays as it is.
    """
    law: Law = {run: share for run, share in runs.items() if plain[len(run)].get(run, 0.0) == 0.0}
    for sequence, probability in plain[-1].items():
        for length in range(1, len(plain)):
            share = runs.get(sequence[:length], 0.0)
            if share and probability:
                law[sequence] = law.get(sequence, 0.0) + share * probability / plain[length][sequence[:length]]
    return law


def total_variation(one: Law, other: Law) -> float:
    """Half the sum of absolute differences; 1 for laws that share nothing."""
    return math.fsum(abs(one.get(key, 0.0) - other.get(key, 0.0)) for key in one.keys() | other.keys()) / 2


Shape = tuple["Shape", ...]


def tree_shapes(depth: int, children: int) -> list[Shape]:
    """Every tree of at most `depth` levels below the root and at most `children` of a node, up to order of siblings."""
    if depth == 0:
        return [()]
    below = tree_shapes(depth - 1, children)
    return [shape for count in range(children + 1) for shape in itertools.combinations_with_replacement(below, count)]


def walk_shape(shape: Shape, parent: int = -1, counter: Iterator[int] | None = None) -> list[int]:
    """Parents of a shape's nodes, each parent before its children."""
    counter = itertools.count() if counter is None else counter
    node = next(counter)
    parents = [parent]
    for child in shape:
        parents += walk_shape(child, node, counter)
    return parents
