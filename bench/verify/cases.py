"""Verification problems of a given shape, for the benchmark and for the kernels' tests alike. Torch only."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sglang_seer.verify import SamplingRows, draw, transform_logits

TOP_K_ALL = 1 << 30
KINDS = ("greedy", "t1", "temperature", "topp95", "filters", "mixed")
# Rows of the reference that are drawn at a time, for its float64 copies.
_REFERENCE_ROWS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """bs requests of trees with `nodes` nodes (root included) over `vocab` tokens.

    kind: one of KINDS. chain: every node below the last, else a random tree. accepted: how likely a node's first
    child carries the token that is drawn there. spread: standard deviation of the logits.
    """

    bs: int
    nodes: int
    vocab: int
    kind: str
    chain: bool = False
    accepted: float = 0.7
    spread: float = 3.0
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Arguments of `verify_tree`. levels: nodes on the longest path."""

    logits: torch.Tensor
    draft_tokens: torch.Tensor
    parents: torch.Tensor
    positions: torch.Tensor
    rows: SamplingRows
    levels: int
    bias: torch.Tensor | None = None
    grammar_mask: torch.Tensor | None = None


def random_parents(bs: int, nodes: int, generator: torch.Generator, *, chain: bool, padding: float) -> torch.Tensor:
    """[bs, nodes] int32; some of the nodes of random trees are padding."""
    parents = torch.full((bs, nodes), -1, dtype=torch.int32)
    for request in range(bs):
        real = [0]
        for node in range(1, nodes):
            if torch.rand((), generator=generator) < padding:
                continue
            # One of the last four: trees as deep as they are wide.
            recent = real[-1:] if chain else real[-4:]
            parents[request, node] = recent[int(torch.randint(0, len(recent), (), generator=generator))]
            real.append(node)
    return parents


def node_depths(parents: torch.Tensor) -> torch.Tensor:
    """[bs, nodes] int64 depth of each node, 0 for the root and padding."""
    depths = torch.zeros(parents.shape, dtype=torch.long)
    for node in range(1, parents.shape[1]):
        parent = parents[:, node].long()
        above = depths.gather(1, parent.clamp(min=0)[:, None]).view(-1)
        depths[:, node] = torch.where(parent >= 0, above + 1, 0)
    return depths


def sampling_rows(bs: int, kind: str, generator: torch.Generator) -> SamplingRows:
    """Parameters by kind; "filters" and "mixed" differ from request to request."""
    if kind not in KINDS:
        raise ValueError(f"kind: got {kind!r}, wanted one of {', '.join(KINDS)}")
    temperatures, top_ps, min_ps = torch.ones(bs), torch.ones(bs), torch.zeros(bs)
    top_ks = torch.full((bs,), TOP_K_ALL, dtype=torch.int32)
    if kind in ("temperature", "filters", "mixed"):
        temperatures = torch.rand(bs, generator=generator) * 1.2 + 0.3
    if kind == "topp95":
        top_ps[:] = 0.95
    if kind in ("filters", "mixed"):
        choice = torch.randint(0, 6, (bs,), generator=generator)
        top_ks[(choice == 0) | (choice == 3)] = 20
        top_ps[(choice == 1) | (choice == 3)] = 0.9
        min_ps[(choice == 2) | (choice == 3)] = 0.05
        if kind == "mixed":
            top_ks[choice == 4] = 1
    if kind == "greedy":
        top_ks[:] = 1
    return SamplingRows(
        temperatures=temperatures,
        top_ks=top_ks,
        top_ps=top_ps,
        min_ps=min_ps,
        seeds=torch.randint(-(2**62), 2**62, (bs,), generator=generator),
        all_greedy=kind == "greedy",
        any_filter=kind in ("topp95", "filters", "mixed"),
    )


def _plant(draft_tokens: torch.Tensor, parents: torch.Tensor, drawn: torch.Tensor, share: torch.Tensor) -> None:
    """Let some first children carry what is drawn at their parent; siblings stay distinct."""
    for request in range(parents.shape[0]):
        planted = set()
        for node in range(1, parents.shape[1]):
            parent = int(parents[request, node])
            if parent < 0 or parent in planted:
                continue
            planted.add(parent)
            if share[request, node]:
                token = int(drawn[request, parent])
                draft_tokens[request, (parents[request] == parent) & (draft_tokens[request] == token)] = -1
                draft_tokens[request, node] = token


def make_case(
    shape: Shape,
    seed: int,
    device: str | torch.device = "cpu",
    *,
    bias: str | None = None,
    grammar: bool = False,
    pad_columns: int = 0,
) -> Case:
    """A random case. bias: "request" or "node" for one row each. pad_columns: makes the logits' row stride odd."""
    generator = torch.Generator().manual_seed(seed)
    device = torch.device(device)
    rows_count, vocab = shape.bs * shape.nodes, shape.vocab
    # The logits are large: they are made where they are used.
    here = torch.Generator(device).manual_seed(seed)
    logits = torch.randn(rows_count, vocab + pad_columns, generator=here, device=device).mul_(shape.spread)
    logits = logits.to(shape.dtype)[:, :vocab]
    biases = None
    if bias is not None:
        biases = torch.randn(shape.bs if bias == "request" else rows_count, vocab, generator=here, device=device)
    mask = None
    if grammar:
        words = -(-vocab // 32)
        mask = torch.randint(-(2**31), 2**31, (rows_count, words), generator=here, device=device).to(torch.int32)
    parents = random_parents(shape.bs, shape.nodes, generator, chain=shape.chain, padding=0.0 if shape.chain else 0.05)
    depths = node_depths(parents)
    starts = torch.randint(0, 2**17, (shape.bs, 1), generator=generator)
    rows = sampling_rows(shape.bs, shape.kind, generator)
    rows = _to(rows, device)
    positions = (starts + depths).flatten().to(device)
    # Distinct among siblings, and rarely drawn.
    draft_tokens = (torch.arange(shape.nodes, dtype=torch.int32) % vocab).repeat(shape.bs, 1)
    by_row = rows.repeat(shape.nodes)
    drawn = []
    for some in torch.arange(rows_count, device=device).split(_REFERENCE_ROWS):
        drawn.append(draw(transform_logits(logits, biases, mask, some), by_row.take(some), positions[some]))
    share = torch.rand((shape.bs, shape.nodes), generator=generator) < shape.accepted
    _plant(draft_tokens, parents, torch.cat(drawn).view(shape.bs, shape.nodes).cpu(), share)
    return Case(
        logits=logits,
        draft_tokens=draft_tokens.to(device),
        parents=parents.to(device),
        positions=positions,
        rows=rows,
        levels=int(depths.max()) + 1,
        bias=biases,
        grammar_mask=mask,
    )


def _to(rows: SamplingRows, device: torch.device) -> SamplingRows:
    return SamplingRows(
        temperatures=rows.temperatures.to(device),
        top_ks=rows.top_ks.to(device),
        top_ps=rows.top_ps.to(device),
        min_ps=rows.min_ps.to(device),
        seeds=rows.seeds.to(device),
        all_greedy=rows.all_greedy,
        any_filter=rows.any_filter,
    )
