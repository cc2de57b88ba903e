"""Texts as token ids: a byte-level BPE trained on the texts that are measured, and groups of token sequences."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from bench.draft.drafter import Tokens
from bench.draft.traces import Segment, TraceGroup, TraceSet

VOCAB_SIZE = 48_000
# Token 0 stays free of text: SGLang fills the width of its trees with it.
# A code point that Unicode keeps out of texts.
FILLER = "\ufdd0"


@dataclass(frozen=True, slots=True)
class Response:
    """tokens: [length] int32; generated: [length] bool, whether the model wrote the token."""

    tokens: Tokens
    generated: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TokenGroup:
    """A prompt, [prompt_tokens] int32, and the responses to it."""

    prompt: Tokens
    responses: list[Response]

    @property
    def generated_tokens(self) -> int:
        return sum(int(response.generated.sum()) for response in self.responses)


def tokenizer_of(sets: Sequence[TraceSet], *, most_chars: int, cache: Path | None = None) -> Tokenizer:
    """The tokenizer trained on an equal share of each set, `most_chars` in all; kept in `cache` under their hash."""
    texts = [text for one in sets for text in _share(one, most_chars // len(sets))]
    digest = hashlib.sha256(f"{VOCAB_SIZE}".encode())
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    path = (cache or cache_folder()) / f"bpe-{digest.hexdigest()[:24]}.json"
    if path.exists():
        return Tokenizer.from_file(str(path))
    tokenizer = train(texts)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    tokenizer.save(str(unfinished))
    unfinished.rename(path)
    return tokenizer


def train(texts: Sequence[str]) -> Tokenizer:
    """A byte-level BPE of VOCAB_SIZE tokens (fewer if the texts have no more pairs)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(  # type: ignore[no-untyped-call]
        vocab_size=VOCAB_SIZE, special_tokens=[FILLER], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return tokenizer


def cache_folder() -> Path:
    """Where trained tokenizers are kept; outside the repository, because they are made of the texts."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "sglang-seer-bench"


def groups_of(
    one: TraceSet, tokenizer: Tokenizer, *, tokens: int, siblings: int, fewest: int = 1, seed: int = 0
) -> list[TokenGroup]:
    """Groups of the set in a seeded order until they hold `tokens` generated tokens, or all of them.

    siblings: most responses taken of a group, by a seeded choice. fewest: groups with fewer are passed over.
    """
    chosen: list[TokenGroup] = []
    total = 0
    for group in _shuffled(one, seed):
        if total >= tokens:
            break
        if len(group.responses) < fewest:
            continue
        picked = random.Random(f"{seed} {group.prompt}").sample(group.responses, min(siblings, len(group.responses)))
        encoded = encode(group.prompt, picked, tokenizer)
        if encoded.responses:
            chosen.append(encoded)
            total += encoded.generated_tokens
    return chosen


def encode(prompt: str, responses: Sequence[Sequence[Segment]], tokenizer: Tokenizer) -> TokenGroup:
    """A group as token ids; responses without a generated token are left out."""
    texts = [prompt, *(segment.text for response in responses for segment in response)]
    ids = iter([np.array(one.ids, dtype=np.int32) for one in tokenizer.encode_batch(texts, add_special_tokens=False)])
    group = TokenGroup(next(ids), [])
    for response in responses:
        pieces = [(next(ids), segment.generated) for segment in response]
        if any(generated and len(piece) for piece, generated in pieces):
            flags = [np.full(len(piece), generated) for piece, generated in pieces]
            group.responses.append(Response(np.concatenate([piece for piece, _ in pieces]), np.concatenate(flags)))
    return group


def _shuffled(one: TraceSet, seed: int) -> list[TraceGroup]:
    groups = list(one.groups)
    random.Random(f"{seed} {one.name}").shuffle(groups)
    return groups


def _share(one: TraceSet, most_chars: int) -> Iterator[str]:
    taken = 0
    for text in TraceSet(one.name, _shuffled(one, 0)).texts():
        if taken >= most_chars:
            return
        taken += len(text)
        yield text
