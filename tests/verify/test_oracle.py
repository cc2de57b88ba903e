"""The reference's law, enumerated, against plain decoding's law: total variation below 1e-12."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

from sglang_seer.verify import Accepted, SamplingRows, accept_path, exact_law
from sglang_seer.verify.oracle import (
    Law,
    Prefix,
    Settings,
    Shape,
    completed,
    decoding_law,
    draw_law,
    node_prefixes,
    run_laws,
    total_variation,
    tree_shapes,
    walk_shape,
)

LEAST = 1e-12
SETTINGS = [
    Settings(),
    Settings(temperature=0.5),
    Settings(temperature=2.0),
    Settings(top_k=1),
    Settings(top_k=2),
    Settings(top_k=3, temperature=0.7),
    Settings(top_p=0.3),
    Settings(top_p=0.6),
    Settings(top_p=0.9, temperature=1.5),
    Settings(min_p=0.2),
    Settings(min_p=0.6),
    Settings(top_k=3, top_p=0.8, min_p=0.1, temperature=1.3),
]
Tree = tuple[list[int], list[int]]


def settings_rows(settings: Settings, count: int) -> SamplingRows:
    return SamplingRows(
        temperatures=torch.full((count,), settings.temperature, dtype=torch.float64),
        top_ks=torch.full((count,), settings.top_k),
        top_ps=torch.full((count,), settings.top_p, dtype=torch.float64),
        min_ps=torch.full((count,), settings.min_p, dtype=torch.float64),
        seeds=torch.zeros(count, dtype=torch.int64),
        all_greedy=settings.top_k == 1,
        any_filter=True,
    )


class Model:
    """Logits of the next token from the length of the text and its last token, float64; some are equal."""

    def __init__(self, vocab: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(5, vocab + 1, vocab, generator=generator, dtype=torch.float64) * 1.5
        self.table[::2] = (self.table[::2] * 2).round() / 2

    def row(self, prefix: Prefix) -> torch.Tensor:
        return self.table[len(prefix), prefix[-1] if prefix else -1]

    def __call__(self, prefix: Prefix) -> list[float]:
        return self.row(prefix).tolist()


def labelled_trees(depth: int, vocab: int) -> list[tuple[tuple[int, object], ...]]:
    """Every tree over a vocabulary: a choice of tokens, and a tree below each."""
    if depth == 0:
        return [()]
    below: list[object] = [None, *labelled_trees(depth - 1, vocab)]
    return [
        tuple((token, tree) for token, tree in enumerate(choice) if tree is not None)
        for choice in itertools.product(below, repeat=vocab)
    ]


def flatten(tree: tuple[tuple[int, object], ...]) -> Tree:
    tokens, parents = [0], [-1]

    def add(children: tuple[tuple[int, object], ...], parent: int) -> None:
        for token, below in children:
            tokens.append(token)
            parents.append(parent)
            add(below, len(tokens) - 1)  # type: ignore[arg-type]

    add(tree, 0)
    return tokens, parents


def random_labels(shape: Shape, vocab: int, generator: torch.Generator) -> Tree:
    """A shape with random tokens, distinct among siblings."""
    parents = walk_shape(shape)
    tokens = [0] * len(parents)
    for node in range(len(parents)):
        children = [i for i, parent in enumerate(parents) if parent == node]
        for child, token in zip(children, torch.randperm(vocab, generator=generator).tolist(), strict=False):
            tokens[child] = token
    return tokens, parents


def worst_distance(
    trees: list[Tree],
    model: Model,
    settings: Settings,
    accept: Callable[..., Accepted] = accept_path,
) -> float:
    """Largest total variation over the trees between what verification and plain decoding emit in four tokens."""
    plain: list[Law] = [decoding_law(model, settings, steps) for steps in range(5)]
    worst = 0.0
    by_width: dict[int, list[Tree]] = {}
    for tree in trees:
        by_width.setdefault(len(tree[0]), []).append(tree)
    for width, some in by_width.items():
        rows = torch.stack([model.row(prefix) for tree in some for prefix in node_prefixes(*tree)])
        laws = exact_law(rows, settings_rows(settings, len(rows))).view(len(some), width, -1)
        tokens = torch.tensor([tree[0] for tree in some], dtype=torch.int32)
        parents = torch.tensor([tree[1] for tree in some], dtype=torch.int32)
        for runs in run_laws(tokens, parents, laws, accept):
            worst = max(worst, total_variation(completed(runs, plain), plain[-1]))
    return worst


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("vocab", [2, 3, 4, 7])
def test_law_of_one_draw_is_the_definition(vocab: int, settings: Settings) -> None:
    """Kills: filters in another order or before the temperature, the wrong token first among equals."""
    rows = torch.cat([Model(vocab, seed).table.reshape(-1, vocab) for seed in range(3)])
    laws = exact_law(rows, settings_rows(settings, len(rows)))
    for seen, row in zip(laws.tolist(), rows.tolist(), strict=True):
        assert sum(abs(a - b) for a, b in zip(seen, draw_law(row, settings), strict=True)) / 2 < LEAST


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_tree_over_two_tokens(settings: Settings) -> None:
    """All 676 labelled trees of up to three levels, every filter."""
    trees = [flatten(tree) for tree in labelled_trees(3, 2)]
    assert len(trees) == 676
    assert worst_distance(trees, Model(2, 5), settings) < LEAST


def test_every_tree_of_two_levels_over_three_tokens_and_of_one_over_four() -> None:
    trees = [flatten(tree) for tree in labelled_trees(2, 3)]
    assert len(trees) == 729
    for i, settings in enumerate(SETTINGS):
        assert worst_distance(trees[i :: len(SETTINGS)], Model(3, 6), settings) < LEAST
        assert worst_distance([flatten(tree) for tree in labelled_trees(1, 4)], Model(4, 7), settings) < LEAST


def test_every_shape() -> None:
    """All shapes up to the order of siblings: 8,436 of three levels over three tokens, 126 of two over four.

    Three levels over four tokens have 11 million shapes: 240 of them, drawn at random. Tokens are random.
    """
    generator = torch.Generator().manual_seed(8)
    groups = [(3, tree_shapes(3, 3)), (4, tree_shapes(2, 4))]
    assert [len(shapes) for _, shapes in groups] == [8436, 126]
    below = groups[1][1]
    picks = torch.randint(0, len(below), (240, 4), generator=generator).tolist()
    groups.append((4, [tuple(below[i] for i in pick) for pick in picks]))
    for vocab, shapes in groups:
        trees = [random_labels(shape, vocab, generator) for shape in shapes]
        for i, settings in enumerate(SETTINGS):
            assert worst_distance(trees[i :: len(SETTINGS)], Model(vocab, i), settings) < LEAST


def without_bonus(tokens: torch.Tensor, parents: torch.Tensor, drawn: torch.Tensor) -> Accepted:
    """Mutant: the draw that no child carries is thrown away unless it is the only one."""
    accepted = accept_path(tokens, parents, drawn)
    return Accepted(accepted.tokens, accepted.nodes, (accepted.lengths - 1).clamp(min=1))


def first_child(tokens: torch.Tensor, parents: torch.Tensor, drawn: torch.Tensor) -> Accepted:
    """Mutant: the walk goes to the first child whatever was drawn, and emits its token."""
    eager = drawn.clone()
    for case in range(len(tokens)):
        for node in range(tokens.shape[1]):
            children = (parents[case] == node).nonzero().view(-1)
            if len(children):
                eager[case, node] = tokens[case, children[0]]
    return accept_path(tokens, parents, eager)


@pytest.mark.parametrize("mutant", [without_bonus, first_child])
def test_a_wrong_walk_is_seen(mutant: Callable[..., Accepted]) -> None:
    trees = [flatten(tree) for tree in labelled_trees(2, 2)]
    assert worst_distance(trees, Model(2, 5), Settings(), mutant) > 0.05
