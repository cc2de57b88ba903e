"""The law of one draw: what plain decoding samples from a row of logits, with its filters and its noise.

Filters follow SGLang's `pytorch` sampling backend: probabilities sorted downwards, top-k by rank, top-p keeps a token
while the mass before it is at most p, min-p relative to the largest. Noise of filtered rows is keyed by rank, as there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sglang_seer.verify.noise import gumbel_noise


@dataclass(frozen=True, slots=True)
class SamplingRows:
    """Sampling parameters, one entry a row of logits.

    temperatures, top_ps, min_ps: [rows] float32. top_ks: [rows] int32, 1 means greedy. seeds: [rows] int64.
    any_filter: False promises that no row has top-k (other than greedy), top-p or min-p: saves looking.
    """

    temperatures: torch.Tensor
    top_ks: torch.Tensor
    top_ps: torch.Tensor
    min_ps: torch.Tensor
    seeds: torch.Tensor
    all_greedy: bool
    any_filter: bool

    def filtered(self, vocab: int) -> torch.Tensor:
        """[rows] bool: rows with top-k, top-p or min-p, other than greedy ones."""
        return (self.top_ks != 1) & ((self.top_ks < vocab) | (self.top_ps < 1.0) | (self.min_ps > 0.0))

    def take(self, index: torch.Tensor) -> SamplingRows:
        """The rows of an index tensor."""
        return SamplingRows(
            temperatures=self.temperatures[index],
            top_ks=self.top_ks[index],
            top_ps=self.top_ps[index],
            min_ps=self.min_ps[index],
            seeds=self.seeds[index],
            all_greedy=self.all_greedy,
            any_filter=self.any_filter,
        )

    def repeat(self, times: int) -> SamplingRows:
        """The same parameters for `times` consecutive rows each: [requests] becomes [requests * times]."""
        if times == 1:
            return self
        rows = torch.arange(self.seeds.shape[0], device=self.seeds.device)
        return self.take(rows.repeat_interleave(times))


def _filtered_draw(probs: torch.Tensor, rows: SamplingRows, positions: torch.Tensor) -> torch.Tensor:
    weights, tokens = probs.sort(dim=-1, descending=True)
    mass_before = torch.cumsum(weights, dim=-1) - weights
    ranks = torch.arange(weights.shape[-1], device=weights.device)
    weights[ranks >= rows.top_ks[:, None]] = 0.0
    weights[mass_before > rows.top_ps[:, None]] = 0.0
    weights[weights < (weights[:, 0] * rows.min_ps)[:, None]] = 0.0
    scores = weights.to(torch.float64).log_() + gumbel_noise(rows.seeds, positions, weights.shape[-1])
    return tokens.gather(1, scores.argmax(dim=-1, keepdim=True)).view(-1)


def draw(logits: torch.Tensor, rows: SamplingRows, positions: torch.Tensor) -> torch.Tensor:
    """Sample one token a row.

    logits: [rows, vocab] float, not changed. positions: [rows] int64, absolute position of the row's input token.
    Returns [rows] int64. The result of a row depends on that row alone.
    """
    if rows.all_greedy:
        return logits.argmax(dim=-1)
    probs = torch.softmax(logits.float() / rows.temperatures[:, None], dim=-1)
    scores = torch.log(probs).to(torch.float64).add_(gumbel_noise(rows.seeds, positions, logits.shape[-1]))
    tokens = scores.argmax(dim=-1)
    greedy = rows.top_ks == 1
    tokens = torch.where(greedy, logits.argmax(dim=-1), tokens)
    if not rows.any_filter:
        return tokens
    picked = rows.filtered(logits.shape[-1]).nonzero().view(-1)
    if picked.numel():
        tokens[picked] = _filtered_draw(probs[picked], rows.take(picked), positions[picked])
    return tokens
