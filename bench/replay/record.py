"""What engines are to generate: a response for each sample of each group, of lengths as recorded or with a long tail.

A record is an .npz file: `GROUP/SAMPLE` -> the response's tokens, its end included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bench.draft.drafter import Tokens
from bench.replay.model import EOS_ID

if TYPE_CHECKING:
    from bench.draft.tokens import TokenGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class LongTail:
    """Log lengths are normal: `sigma` of all of them, `correlation` the share of its square that siblings share.

    mean_tokens: of the uncut lengths.
    """

    mean_tokens: float
    sigma: float = 1.0
    correlation: float = 0.85

    def lengths(self, groups: int, samples: int, seed: int) -> npt.NDArray[np.int64]:
        """[groups, samples], at least 1."""
        rng = np.random.default_rng([seed, 0x7A11])
        shared = rng.standard_normal((groups, 1)) * self.sigma * self.correlation**0.5
        own = rng.standard_normal((groups, samples)) * self.sigma * (1 - self.correlation) ** 0.5
        centre = np.log(self.mean_tokens) - 0.5 * self.sigma**2
        return np.maximum(np.exp(centre + shared + own), 1).astype(np.int64)


def key(group: str, sample: int) -> str:
    return f"{group}/{sample}"


def responses(
    groups: Sequence[TokenGroup], *, samples: int, limit: int, tail: LongTail | None, seed: int = 0
) -> dict[str, Tokens]:
    """By key: of group number n the name is `gn`. Cut one before `limit`, and ended.

    Raises ValueError for a group with fewer responses than samples. With a tail, a response that has to be longer than
    it is goes on as its siblings do, one after the other: what a group says is still alike.
    """
    wanted = tail.lengths(len(groups), samples, seed) if tail is not None else None
    made: dict[str, Tokens] = {}
    for number, group in enumerate(groups):
        texts = [one.tokens for one in group.responses]
        if len(texts) < samples:
            raise ValueError(f"group {number}: wanted {samples} responses, saw {len(texts)}")
        for sample in range(samples):
            text = texts[sample]
            if wanted is not None:
                text = _grown(texts, sample, int(wanted[number, sample]))
            made[key(f"g{number}", sample)] = np.append(text[: limit - 1], EOS_ID).astype(np.int32)
    return made


def _grown(texts: Sequence[Tokens], first: int, length: int) -> Tokens:
    pieces, total, place = [texts[first]], len(texts[first]), first
    while total < length:
        place = (place + 1) % len(texts)
        pieces.append(texts[place])
        total += len(texts[place])
    return np.concatenate(pieces)[:length]


def write(path: Path, made: Mapping[str, Tokens]) -> None:
    np.savez(path, **dict(made))


def read(path: Path) -> dict[str, Tokens]:
    with np.load(path) as kept:
        return {name: kept[name] for name in kept.files}
