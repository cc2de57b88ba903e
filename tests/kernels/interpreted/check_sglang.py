"""Noise, draws, whole decodes and tree links against SGLang's own functions, its Triton kernels interpreted too."""

from __future__ import annotations

import pytest
import torch
from sglang.kernels.ops.sampling.murmur_hash import murmur_hash32_kernel
from sglang.kernels.ops.speculative.reconstruct_tree import _reconstruct_tree_mask_kernel
from sglang.srt.layers import sampler

from bench.verify.cases import node_depths, random_parents
from sglang_seer.kernels.tree_mask import tree_metadata_triton
from sglang_seer.kernels.verify import verify_tree_triton
from sglang_seer.verify import SamplingRows, draw, gumbel_noise, murmur_hash32, verify_tree
from tests.kernels.interpreted.comparison import schedule_of

NO_TOP_K = 1 << 30
LINKS = ("positions", "retrieve_index", "retrieve_next_token", "retrieve_next_sibling")
VOCAB = 40


def sglang_hash(seed: torch.Tensor, positions: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """SGLang's `murmur_hash32` without its CPU operator, which needs a compiled library."""
    rows, cols = len(seed), len(columns)
    hashed = torch.empty((rows, cols), dtype=torch.uint32)
    murmur_hash32_kernel[(rows, 1)](
        seed, positions, columns, hashed, rows, cols, BLOCK_SIZE=1 << (cols - 1).bit_length()
    )
    return hashed


@pytest.fixture(autouse=True)
def hash_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "murmur_hash32", sglang_hash)


def sglang_draw(logits: torch.Tensor, rows: SamplingRows, positions: torch.Tensor) -> torch.Tensor:
    """What SGLang's sampler does in deterministic mode with these rows as one batch."""
    if rows.all_greedy:
        return torch.argmax(logits, -1)
    probs = torch.softmax(logits / rows.temperatures[:, None], dim=-1)
    if not rows.any_filter:
        return sampler.sampling_from_probs_torch(probs, sampling_seed=rows.seeds, positions=positions).long()
    return sampler.top_k_top_p_min_p_sampling_from_probs_torch(
        probs, rows.top_ks, rows.top_ps, rows.min_ps, False, rows.seeds, positions
    ).long()


def sampling(kind: str, seeds: torch.Tensor, generator: torch.Generator) -> SamplingRows:
    count = len(seeds)
    top_ks, top_ps = torch.full((count,), NO_TOP_K, dtype=torch.int32), torch.ones(count)
    if kind == "greedy":
        top_ks[:] = 1
    if kind == "top_k":
        top_ks[:] = torch.randint(2, 12, (count,), generator=generator).int()
    if kind in ("top_p", "top_k"):
        top_ps[:] = torch.rand(count, generator=generator) * 0.6 + 0.35
    return SamplingRows(
        temperatures=torch.ones(count) if kind == "greedy" else torch.rand(count, generator=generator) + 0.4,
        top_ks=top_ks,
        top_ps=top_ps,
        min_ps=torch.zeros(count),
        seeds=seeds,
        all_greedy=kind == "greedy",
        any_filter=kind in ("top_k", "top_p"),
    )


KINDS = ("greedy", "temperature", "top_p", "top_k")


def test_hash_and_noise_are_those_of_sglang() -> None:
    seeds = torch.tensor([0, 42, 2**31, 2**62 + 7, -1])
    positions = torch.tensor([0, 1, 131071, 2**31 - 1, 77])
    columns = torch.arange(300)
    hashed = sglang_hash(seeds, positions, columns).to(torch.int64)
    assert torch.equal(hashed, murmur_hash32(seeds, positions, columns))
    # On a flat row its draw is the largest noise.
    flat = torch.zeros(5, 300)
    drawn = sampler.multinomial_with_seed(flat, seeds, positions).view(-1)
    assert torch.equal(drawn, gumbel_noise(seeds, positions, 300).argmax(dim=1))


@pytest.mark.parametrize("kind", KINDS)
def test_reference_draws_as_sglang(kind: str) -> None:
    """400 rows, equal logits among them: the reference is SGLang's arithmetic, so no tolerance."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(400, VOCAB, generator=generator) * 2
    logits[::2] = (logits[::2] * 4).round() / 4
    rows = sampling(kind, torch.randint(0, 2**62, (400,), generator=generator), generator)
    positions = torch.randint(0, 2**17, (400,), generator=generator)
    assert torch.equal(draw(logits, rows, positions), sglang_draw(logits, rows, positions))


class Model:
    """float32 logits from the last two tokens."""

    def __init__(self, seed: int) -> None:
        self.table = torch.randn(VOCAB, VOCAB, VOCAB, generator=torch.Generator().manual_seed(seed)) * 1.5

    def __call__(self, text: list[int]) -> torch.Tensor:
        return self.table[text[-2], text[-1]]


def plain_decoding(model: Model, prompt: list[int], rows: SamplingRows, steps: int) -> list[int]:
    text = list(prompt)
    for _ in range(steps):
        text.append(int(sglang_draw(model(text)[None], rows, torch.tensor([len(text) - 1]))[0]))
    return text


def hostile_tree(
    model: Model, text: list[int], right: list[int], parents: torch.Tensor, generator: torch.Generator, share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of a tree's nodes and the logits after each; some first children are what plain decoding emits."""
    width = len(parents)
    tokens = torch.full((width,), text[-1], dtype=torch.int32)
    texts: list[list[int]] = [text]
    for node in range(1, width):
        parent = int(parents[node])
        if parent < 0:
            texts.append(text)
            continue
        taken = {int(tokens[i]) for i in range(1, node) if int(parents[i]) == parent}
        depth = len(texts[parent]) - len(text)
        token = int(torch.randint(0, VOCAB, (), generator=generator))
        if depth < len(right) and float(torch.rand((), generator=generator)) < share:
            token = right[depth]
        # Out of the vocabulary rather than twice among siblings.
        tokens[node] = token if token not in taken else VOCAB + node
        texts.append([*texts[parent], token])
    return tokens, torch.stack([model(one) for one in texts])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [1, 2, 5, 12, 32])
def test_decodes_are_those_of_sglang(width: int, kind: str) -> None:
    """Random trees, drafts right, wrong and impossible, batch mates that come and go: the tokens of plain decoding.

    Kills: noise of another position, a draw that looks at the draft, results that depend on batch mates.
    """
    generator = torch.Generator().manual_seed(width)
    model, steps, requests = Model(2), 16, 2
    seeds = torch.randint(0, 2**62, (requests,), generator=generator)
    rows = sampling(kind, seeds, generator)
    texts = [[request, 1] for request in range(requests)]
    wanted = [
        plain_decoding(model, text, rows.take(torch.tensor([request])), steps) for request, text in enumerate(texts)
    ]
    accepted = 0
    while running := [i for i, text in enumerate(texts) if len(text) < steps + 2]:
        # Not every request takes part in every step.
        batch = [i for i in running if float(torch.rand((), generator=generator)) < 0.8] or running[:1]
        parents = random_parents(len(batch), width, generator, chain=False, padding=0.1)
        made = [
            hostile_tree(model, texts[i], wanted[i][len(texts[i]) :], tree, generator, 0.8)
            for i, tree in zip(batch, parents, strict=True)
        ]
        starts = torch.tensor([len(texts[i]) - 1 for i in batch])
        given = (
            torch.cat([logits for _, logits in made]),
            torch.stack([tokens for tokens, _ in made]),
            parents,
            (starts[:, None] + node_depths(parents)).flatten(),
            rows.take(torch.tensor(batch)),
        )
        walk = bool(torch.rand((), generator=generator) < 0.5)
        # The kernels where the interpreter can afford them, the reference in between.
        kernel_step = len(batch) * width <= 40 and float(torch.rand((), generator=generator)) < 0.2
        seen = (
            verify_tree_triton(*given, schedule=schedule_of(VOCAB, walk=walk, splits=1, block=64))
            if kernel_step
            else verify_tree(*given)
        )
        for slot, i in enumerate(batch):
            run = seen.tokens[slot, : int(seen.lengths[slot])].tolist()
            accepted += len(run) - 1
            texts[i] += run
    for request in range(requests):
        assert texts[request][: steps + 2] == wanted[request]
    assert width == 1 or accepted > 3


def test_decodes_differ_for_a_shifted_position() -> None:
    """Negative control of the test above: the noise of the next position gives other tokens."""
    model, seeds = Model(2), torch.tensor([5])
    rows = sampling("temperature", seeds, torch.Generator().manual_seed(1))
    wanted = plain_decoding(model, [0, 1], rows, 12)
    text = [0, 1]
    for _ in range(12):
        one = torch.zeros((1, 1), dtype=torch.int32)
        seen = verify_tree(model(text)[None], one, one - 1, torch.tensor([len(text)]), rows)
        text.append(int(seen.tokens[0, 0]))
    assert text != wanted


@pytest.mark.parametrize("seed", range(4))
def test_sglang_rebuilds_the_same_links_from_our_bits(seed: int) -> None:
    bs, width = 3, (2, 7, 16, 30)[seed]
    parents = random_parents(bs, width, torch.Generator().manual_seed(seed), chain=False, padding=0.1)
    seq_lens = torch.tensor([5, 0, 300])
    seen = tree_metadata_triton(parents, seq_lens, None)
    ancestors = ((seen.bits[:, :, None] >> torch.arange(width)) & 1).bool()
    flat = [torch.full((bs * width,), -77) for _ in range(4)]
    block = 1 << (width - 1).bit_length()
    _reconstruct_tree_mask_kernel[(bs,)](ancestors.flatten(), seq_lens, *flat, width, block)
    for name, theirs in zip(LINKS, flat, strict=True):
        assert torch.equal(getattr(seen, name).flatten(), theirs), name
