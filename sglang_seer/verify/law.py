"""The law of one draw: what plain decoding samples from a row of logits, with its filters and its noise.

Filters follow SGLang's `pytorch` sampling backend: probabilities sorted downwards, top-k by rank, top-p keeps a token
while the mass before it is at most p, min-p relative to the largest. Noise of filtered rows is keyed by rank, as there.

A row's result depends on that row alone. SGLang's own does not quite: one filtered or greedy request makes it key the
noise of the whole batch by rank, so its seeded tokens equal these where all requests of a batch are of one kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sglang_seer.verify.noise import gumbel_noise

# SGLang draws greedily below this temperature.
GREEDY_TEMPERATURE = 1e-6


@dataclass(frozen=True, slots=True)
class SamplingRows:
    """Sampling parameters, one entry a row of logits.

    temperatures, top_ps, min_ps: [rows] float32. top_ks: [rows] int32, 1 means greedy. seeds: [rows] int64.
    all_greedy: every row is greedy; temperatures are not looked at then.
    any_filter: False promises that no row has top-k (other than greedy), top-p or min-p: saves looking.
    """

    temperatures: torch.Tensor
    top_ks: torch.Tensor
    top_ps: torch.Tensor
    min_ps: torch.Tensor
    seeds: torch.Tensor
    all_greedy: bool
    any_filter: bool

    @property
    def greedy(self) -> torch.Tensor:
        """[rows] bool: rows that take their largest logit."""
        return (self.top_ks == 1) | (self.temperatures < GREEDY_TEMPERATURE)

    @property
    def divisors(self) -> torch.Tensor:
        """[rows] float32: temperatures to divide by; 1 where the temperature means greedy."""
        if self.all_greedy:
            return torch.ones_like(self.temperatures)
        return torch.where(self.temperatures < GREEDY_TEMPERATURE, 1.0, self.temperatures)

    def filtered(self, vocab: int) -> torch.Tensor:
        """[rows] bool: rows with top-k, top-p or min-p, other than greedy ones."""
        return ~self.greedy & ((self.top_ks < vocab) | (self.top_ps < 1.0) | (self.min_ps > 0.0))

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

    def contiguous(self) -> SamplingRows:
        """The same with a stride of one everywhere; copies nothing where it is so already."""
        return SamplingRows(
            temperatures=self.temperatures.contiguous(),
            top_ks=self.top_ks.contiguous(),
            top_ps=self.top_ps.contiguous(),
            min_ps=self.min_ps.contiguous(),
            seeds=self.seeds.contiguous(),
            all_greedy=self.all_greedy,
            any_filter=self.any_filter,
        )


def filtered_weights(
    probs: torch.Tensor, rows: SamplingRows, *, stable: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities by rank, 0 where a filter drops them (not normalized again), and the token of each rank.

    probs: [rows, vocab]. Both results are [rows, vocab]. stable: the smaller token first among equals; else the order
    of the very call that SGLang makes, which is stable on a GPU (radix sort, above 4,096 tokens) and not on a CPU.
    """
    weights, tokens = probs.sort(dim=-1, descending=True, stable=stable)
    mass_before = torch.cumsum(weights, dim=-1) - weights
    ranks = torch.arange(weights.shape[-1], device=weights.device)
    weights[ranks >= rows.top_ks[:, None]] = 0.0
    weights[mass_before > rows.top_ps[:, None]] = 0.0
    weights[weights < (weights[:, 0] * rows.min_ps)[:, None]] = 0.0
    return weights, tokens


def exact_law(logits: torch.Tensor, rows: SamplingRows) -> torch.Tensor:
    """The distribution that `draw` samples from, [rows, vocab], computed in the logits' precision.

    Of equal probabilities at a filter's end the smaller token is kept.
    The argmax of log weight + Gumbel noise follows the normalized weights: no sampling is needed to know the law.
    """
    law = torch.softmax(logits / rows.divisors[:, None].to(logits.dtype), dim=-1)
    picked = rows.filtered(logits.shape[-1])
    weights, tokens = filtered_weights(law, rows, stable=True)
    weights = weights / weights.sum(dim=-1, keepdim=True)
    law = torch.where(picked[:, None], torch.zeros_like(law).scatter_(1, tokens, weights), law)
    argmax = torch.nn.functional.one_hot(logits.argmax(dim=-1), logits.shape[-1]).to(law.dtype)
    return torch.where(rows.greedy[:, None] | rows.all_greedy, argmax, law)


def _filtered_draw(probs: torch.Tensor, rows: SamplingRows, positions: torch.Tensor) -> torch.Tensor:
    weights, tokens = filtered_weights(probs, rows)
    scores = weights.to(torch.float64).log_() + gumbel_noise(rows.seeds, positions, weights.shape[-1])
    return tokens.gather(1, scores.argmax(dim=-1, keepdim=True)).view(-1)


def draw(logits: torch.Tensor, rows: SamplingRows, positions: torch.Tensor) -> torch.Tensor:
    """Sample one token a row.

    logits: [rows, vocab] float, not changed. positions: [rows] int64, absolute position of the row's input token.
    Returns [rows] int64. The result of a row depends on that row alone. A row with NaN, plus infinity or nothing but
    minus infinity has no distribution; as in SGLang, token 0 comes out of it (the first NaN if it is greedy).
    """
    if rows.all_greedy:
        return logits.argmax(dim=-1)
    probs = torch.softmax(logits.float() / rows.divisors[:, None], dim=-1)
    scores = torch.log(probs).to(torch.float64).add_(gumbel_noise(rows.seeds, positions, logits.shape[-1]))
    tokens = scores.argmax(dim=-1)
    tokens = torch.where(rows.greedy, logits.argmax(dim=-1), tokens)
    if not rows.any_filter:
        return tokens
    picked = rows.filtered(logits.shape[-1]).nonzero().view(-1)
    if picked.numel():
        tokens[picked] = _filtered_draw(probs[picked], rows.take(picked), positions[picked])
    return tokens
