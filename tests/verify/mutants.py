"""Wrong verifiers, each with one mistake that someone could make; the tests must see every one of them."""

from __future__ import annotations

import dataclasses

import torch

from sglang_seer.verify import Accepted, SamplingRows, accept_path, draw, exact_law


def _spread(positions: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return positions.view(tokens.shape)


def noise_reused(
    logits: torch.Tensor, tokens: torch.Tensor, parents: torch.Tensor, positions: torch.Tensor, rows: SamplingRows
) -> Accepted:
    """All nodes of a tree draw with the noise of the root's position."""
    same = _spread(positions, tokens)[:, :1].expand(tokens.shape).flatten()
    drawn = draw(logits, rows.repeat(tokens.shape[1]), same)
    return accept_path(tokens, parents, drawn.view(tokens.shape))


def position_off_by_one(
    logits: torch.Tensor, tokens: torch.Tensor, parents: torch.Tensor, positions: torch.Tensor, rows: SamplingRows
) -> Accepted:
    """Nodes below the root draw with the noise of the position before theirs."""
    shifted = _spread(positions, tokens) - (parents >= 0).long()
    drawn = draw(logits, rows.repeat(tokens.shape[1]), shifted.flatten())
    return accept_path(tokens, parents, drawn.view(tokens.shape))


def position_shifted(
    logits: torch.Tensor, tokens: torch.Tensor, parents: torch.Tensor, positions: torch.Tensor, rows: SamplingRows
) -> Accepted:
    """All nodes draw with the noise of the next position: the right law, but not the tokens of plain decoding."""
    drawn = draw(logits, rows.repeat(tokens.shape[1]), positions + 1)
    return accept_path(tokens, parents, drawn.view(tokens.shape))


def draft_seen_by_the_draw(
    logits: torch.Tensor, tokens: torch.Tensor, parents: torch.Tensor, positions: torch.Tensor, rows: SamplingRows
) -> Accepted:
    """A drafted token gets a little more weight at its parent."""
    bs, width = tokens.shape
    favoured = logits.clone().view(bs, width, -1)
    cases = torch.arange(bs)
    for node in range(1, width):
        linked = parents[:, node] >= 0
        favoured[cases[linked], parents[linked, node].long(), tokens[linked, node].long()] += 0.3
    drawn = draw(favoured.view(logits.shape), rows.repeat(width), positions)
    return accept_path(tokens, parents, drawn.view(bs, width))


def temperature_on_one_side(
    logits: torch.Tensor, tokens: torch.Tensor, parents: torch.Tensor, positions: torch.Tensor, rows: SamplingRows
) -> Accepted:
    """Only the root's draw is divided by the temperature."""
    by_row = rows.repeat(tokens.shape[1])
    temperatures = torch.where(parents.flatten() >= 0, 1.0, by_row.temperatures)
    drawn = draw(logits, dataclasses.replace(by_row, temperatures=temperatures), positions)
    return accept_path(tokens, parents, drawn.view(tokens.shape))


def top_p_after_the_draw(
    logits: torch.Tensor, tokens: torch.Tensor, parents: torch.Tensor, positions: torch.Tensor, rows: SamplingRows
) -> Accepted:
    """The draw ignores top-p; a token outside of the nucleus becomes the likeliest one."""
    by_row = rows.repeat(tokens.shape[1])
    drawn = draw(logits, dataclasses.replace(by_row, any_filter=False), positions)
    allowed = exact_law(logits, by_row).gather(1, drawn[:, None]).view(-1) > 0
    drawn = torch.where(allowed, drawn, logits.argmax(dim=-1))
    return accept_path(tokens, parents, drawn.view(tokens.shape))


class MissingBonus:
    """Emits accepted drafts only and draws the next token anew, with new noise, as an unseeded sampler would."""

    def __init__(self) -> None:
        self._steps = 0

    def __call__(
        self,
        logits: torch.Tensor,
        tokens: torch.Tensor,
        parents: torch.Tensor,
        positions: torch.Tensor,
        rows: SamplingRows,
    ) -> Accepted:
        self._steps += 1
        fresh = dataclasses.replace(rows, seeds=rows.seeds + self._steps * 1_000_003)
        drawn = draw(logits, fresh.repeat(tokens.shape[1]), positions)
        accepted = accept_path(tokens, parents, drawn.view(tokens.shape))
        return dataclasses.replace(accepted, lengths=(accepted.lengths - 1).clamp(min=1))
