"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.draft.drafter import Config
from bench.draft.scale import Case
from bench.draft.systems import arctic, sglang_ngram


@dataclass(frozen=True, slots=True)
class Settings:
    """tokens: generated tokens replayed of each set. siblings: most responses of a group."""

    tokens: int
    tokenizer_chars: int
    shapes: tuple[str, ...]
    peers: tuple[Config, ...]
    timed_peers: tuple[Config, ...]
    cases: tuple[Case, ...]
    siblings: int = 16


def _named(*names: str) -> tuple[Config, ...]:
    configs = {f"{one.system}/{one.name}": one for one in (*arctic.CONFIGS, *arctic.TIMED, *sglang_ngram.CONFIGS)}
    return tuple(configs[name] for name in names)


# Each width is a corpus of its own that takes minutes to fill.
SGLANG_TIMED = replace(*_named("sglang_ngram/prompt"), shapes=("tree8", "tree32"))

FULL = Settings(
    tokens=60_000,
    tokenizer_chars=24_000_000,
    shapes=("chain8", "tree8", "tree16", "tree32"),
    peers=(*arctic.CONFIGS, *sglang_ngram.CONFIGS),
    timed_peers=(*arctic.TIMED, SGLANG_TIMED),
    cases=(Case("256x15.7k", 16, 16, 15_700, steps=24), Case("64x1k", 8, 8, 1_000, steps=24)),
)
QUICK = Settings(
    tokens=15_000,
    tokenizer_chars=8_000_000,
    shapes=("chain8", "tree8", "tree32"),
    peers=_named(
        "arctic/default",
        "arctic/cache-long",
        "arctic/one-tree-full",
        "sglang_ngram/prompt",
        "sglang_ngram/prompt-d8",
    ),
    timed_peers=(*_named("arctic/vllm", "arctic/group-trees-full"), SGLANG_TIMED),
    cases=(Case("256x2k", 16, 16, 2_000, steps=10), Case("64x1k", 8, 8, 1_000, steps=10)),
)
# To see that it runs.
SMALLEST = Settings(
    tokens=300,
    tokenizer_chars=10_000,
    shapes=("chain8", "tree8"),
    peers=(),
    timed_peers=(),
    cases=(Case("tiny", groups=2, siblings=2, tokens=20, steps=2),),
    siblings=4,
)


def without_peers(settings: Settings) -> Settings:
    """Ours alone."""
    return replace(settings, peers=(), timed_peers=())
