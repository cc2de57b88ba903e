"""The reference law against enumerated laws, and the noise against MurmurHash3 written out byte by byte."""

from __future__ import annotations

import math

import pytest
import torch

from sglang_seer.verify import SamplingRows, accept_path, draw, gumbel_noise, murmur_hash32, verify_tree

NO_TOP_K = 1 << 30


def python_murmur3(key: bytes) -> int:
    """MurmurHash3_x86_32 with seed 0 of a key whose length is a multiple of 4, from its public definition."""
    state = 0
    for start in range(0, len(key), 4):
        block = int.from_bytes(key[start : start + 4], "little") * 0xCC9E2D51 % 2**32
        block = (block << 15 | block >> 17) % 2**32 * 0x1B873593 % 2**32
        state ^= block
        state = ((state << 13 | state >> 19) % 2**32 * 5 + 0xE6546B64) % 2**32
    state ^= len(key)
    state = (state ^ state >> 16) * 0x85EBCA6B % 2**32
    state = (state ^ state >> 13) * 0xC2B2AE35 % 2**32
    return state ^ state >> 16


def rows_of(count: int, **given: object) -> SamplingRows:
    """Plain temperature-1 rows unless said otherwise."""
    values: dict[str, object] = {
        "temperatures": torch.ones(count),
        "top_ks": torch.full((count,), NO_TOP_K, dtype=torch.int32),
        "top_ps": torch.ones(count),
        "min_ps": torch.zeros(count),
        "seeds": torch.arange(count),
        "all_greedy": False,
        "any_filter": False,
    }
    return SamplingRows(**{**values, **given})  # type: ignore[arg-type]


def test_hash_is_murmur3_of_seed_position_column() -> None:
    seeds = torch.tensor([0, 1, 42, -1, 2**62 + 12345, -(2**63)])
    positions = torch.tensor([0, 5, 131071, 2**31 - 1, 7, 1])
    columns = torch.tensor([0, 1, 151935])
    seen = murmur_hash32(seeds, positions, columns)
    for i, (seed, position) in enumerate(zip(seeds.tolist(), positions.tolist(), strict=True)):
        for j, column in enumerate(columns.tolist()):
            key = (seed % 2**64).to_bytes(8, "little") + position.to_bytes(4, "little") + column.to_bytes(4, "little")
            assert int(seen[i, j]) == python_murmur3(key)


def test_noise_is_standard_gumbel_and_finite() -> None:
    noise = gumbel_noise(torch.arange(50), torch.arange(50), 2000)
    assert torch.isfinite(noise).all()
    assert abs(noise.mean().item() - 0.5772) < 0.02
    assert abs(noise.var().item() - math.pi**2 / 6) < 0.04


def frequencies(logits: list[float], trials: int, **given: object) -> torch.Tensor:
    """Shares of each token over independent seeds."""
    rows = rows_of(trials, seeds=torch.arange(trials) * 7919, **given)
    tokens = draw(torch.tensor([logits]).repeat(trials, 1), rows, torch.full((trials,), 11))
    return torch.bincount(tokens, minlength=len(logits)).double() / trials


LOGITS = [2.0, 1.0, 0.5, 0.0, -1.0]
TRIALS = 40_000


def expected(temperature: float, keep: list[int]) -> torch.Tensor:
    weights = torch.softmax(torch.tensor(LOGITS, dtype=torch.float64) / temperature, dim=0)
    kept = torch.zeros_like(weights)
    kept[keep] = weights[keep]
    return kept / kept.sum()


def filled(value: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.full((TRIALS,), value, dtype=dtype)


@pytest.mark.parametrize(
    ("given", "law"),
    [
        ({"temperatures": filled(1.0)}, expected(1.0, [0, 1, 2, 3, 4])),
        ({"temperatures": filled(0.5)}, expected(0.5, [0, 1, 2, 3, 4])),
        ({"top_ks": filled(2, torch.int32), "any_filter": True}, expected(1.0, [0, 1])),
        # Shares are .53 .20 .12 .07 .03 and so on: the mass before token 2 is .75, that before token 3 is .87.
        ({"top_ps": filled(0.8), "any_filter": True}, expected(1.0, [0, 1, 2])),
        ({"min_ps": filled(0.3), "any_filter": True}, expected(1.0, [0, 1])),
    ],
    ids=["t1", "t0.5", "top_k", "top_p", "min_p"],
)
def test_law_of_a_draw(given: dict[str, object], law: torch.Tensor) -> None:
    # Kills: a missing or doubled temperature (moves the first share by .2), a filter one rank off (>= .05), a filter
    # after the draw. Four standard deviations of a share are below .01.
    assert (frequencies(LOGITS, TRIALS, **given) - law).abs().max() < 0.01


def test_greedy_rows_in_a_mixed_batch_take_the_largest() -> None:
    top_ks = torch.tensor([1, NO_TOP_K, 1], dtype=torch.int32)
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    tokens = draw(logits, rows_of(3, top_ks=top_ks), torch.arange(3))
    assert tokens[0] == logits[0].argmax() and tokens[2] == logits[2].argmax()


def test_a_row_does_not_depend_on_its_mates() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(6, 40, generator=generator)
    top_ps = torch.tensor([1.0, 0.5, 1.0, 0.9, 1.0, 1.0])
    rows = rows_of(6, top_ps=top_ps, any_filter=True)
    together = draw(logits, rows, torch.arange(6))
    for i in range(6):
        alone = rows_of(1, top_ps=top_ps[i : i + 1], seeds=torch.tensor([i]), any_filter=bool(top_ps[i] < 1))
        assert draw(logits[i : i + 1], alone, torch.tensor([i])) == together[i]


def naive_walk(tokens: list[int], parents: list[int], drawn: list[int]) -> list[int]:
    emitted, node = [], 0
    while True:
        emitted.append(drawn[node])
        children = [i for i, parent in enumerate(parents) if parent == node and tokens[i] == drawn[node]]
        if not children:
            return emitted
        node = children[0]


def random_trees(bs: int, width: int, vocab: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draft tokens and parents of random trees with distinct siblings, and drawn tokens that often match."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, vocab, (bs, width), generator=generator, dtype=torch.int32)
    parents = torch.full((bs, width), -1, dtype=torch.int32)
    for b in range(bs):
        seen = set()
        for i in range(1, width):
            parent = int(torch.randint(0, i, (1,), generator=generator))
            if (parent, int(tokens[b, i])) in seen or (parent and parents[b, parent] < 0):
                continue  # stays padding
            seen.add((parent, int(tokens[b, i])))
            parents[b, i] = parent
    return tokens, parents, torch.randint(0, vocab, (bs, width), generator=generator)


@pytest.mark.parametrize("width", [1, 2, 9, 33])
def test_walk_follows_the_drawn_tokens(width: int) -> None:
    tokens, parents, drawn = random_trees(40, width, 3, seed=width)
    accepted = accept_path(tokens, parents, drawn)
    for b in range(40):
        wanted = naive_walk(tokens[b].tolist(), parents[b].tolist(), drawn[b].tolist())
        length = int(accepted.lengths[b])
        assert accepted.tokens[b, :length].tolist() == wanted
        rows = accepted.nodes[b]
        assert (rows[:length] // width == b).all() and (rows[length:] == -1).all()
        assert [int(drawn.flatten()[row]) for row in rows[:length]] == wanted


def sequential(logits_of: object, prefix: list[int], seed: int, steps: int) -> list[int]:
    """Plain decoding with the same law: the model is a table from the last two tokens to logits."""
    text = list(prefix)
    for _ in range(steps):
        row = logits_of(text)  # type: ignore[operator]
        text.append(int(draw(row[None], rows_of(1, seeds=torch.tensor([seed])), torch.tensor([len(text) - 1]))[0]))
    return text[len(prefix) :]


@pytest.mark.parametrize("hostile", [False, True])
def test_tree_verification_reproduces_plain_decoding(hostile: bool) -> None:
    """Token for token, for drafts that are right, wrong or random: the drafts must not be looked at by a draw."""
    vocab, seed = 6, 77
    table = torch.randn(vocab, vocab, vocab, generator=torch.Generator().manual_seed(3)) * 1.5

    def logits_of(text: list[int]) -> torch.Tensor:
        return table[text[-2], text[-1]]

    wanted = sequential(logits_of, [0, 1], seed, 60)
    generator = torch.Generator().manual_seed(4)
    text = [0, 1]
    steps = 0
    while len(text) < 62:
        done = len(text) - 2
        chain = [int(torch.randint(0, vocab, (1,), generator=generator)) for _ in range(4)]
        if not hostile:
            right = wanted[done : done + 4]
            chain[: len(right)] = right
        rows = torch.stack([logits_of([*text, *chain[:i]]) for i in range(5)])
        accepted = verify_tree(
            rows,
            torch.tensor([[text[-1], *chain]], dtype=torch.int32),
            torch.tensor([[-1, 0, 1, 2, 3]], dtype=torch.int32),
            torch.arange(len(text) - 1, len(text) + 4),
            rows_of(1, seeds=torch.tensor([seed])),
        )
        text += accepted.tokens[0, : int(accepted.lengths[0])].tolist()
        steps += 1
    assert text[2:62] == wanted
    assert steps < 14 if not hostile else steps > 30


def test_row_count_must_fit() -> None:
    tree = torch.zeros((2, 3), dtype=torch.int32)
    with pytest.raises(ValueError, match="got 5 rows, wanted 2 requests \\* 3 nodes = 6"):
        verify_tree(torch.zeros(5, 4), tree, tree, torch.zeros(6, dtype=torch.int64), rows_of(2))
