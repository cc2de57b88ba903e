"""Trace files of generated text."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import zstandard

WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "then", "it", "ran", "to", "see", "what", "made", "noise")


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def rows(prompts: int, siblings: int, words: int = 40, seed: int = 0) -> list[dict[str, Any]]:
    """Siblings share most of their text."""
    rng = random.Random(seed)
    made = []
    for _ in range(prompts):
        shared = [sentence(rng, 8) for _ in range(words // 8)]
        responses = [" ".join(rng.choice([part, sentence(rng, 4)]) for part in shared) for _ in range(siblings)]
        made.append({"prompt": sentence(rng, 6), "responses": responses, "source": "generated", "model": "none"})
    return made


def write(path: Path, lines: list[dict[str, Any]] | list[str]) -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_bytes(zstandard.ZstdCompressor().compress(text.encode()))
    return path
