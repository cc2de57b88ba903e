"""Generated groups: what they promise to the cases that are made of them."""

from pathlib import Path

import numpy as np
import pytest

from bench.draft import scale, synthetic, tokens
from bench.draft.traces import TraceSet, read_file
from tests.bench import traces_of


def ngrams(tokens: np.ndarray, size: int) -> set[tuple[int, ...]]:
    return {tuple(tokens[place : place + size].tolist()) for place in range(len(tokens) - size + 1)}


def test_siblings_are_more_alike_than_strangers() -> None:
    first, second = synthetic.groups(count=2, siblings=3, mean_tokens=2000)
    mine = ngrams(first.responses[0].tokens, 4)
    sibling = len(mine & ngrams(first.responses[1].tokens, 4)) / len(mine)
    stranger = len(mine & ngrams(second.responses[1].tokens, 4)) / len(mine)
    assert 0.1 < sibling < 0.9
    assert sibling > 3 * stranger > 0


def test_groups_are_the_same_every_time() -> None:
    once, again = (synthetic.groups(count=2, siblings=2, mean_tokens=50) for _ in range(2))
    other = synthetic.groups(count=2, siblings=2, mean_tokens=50, seed=1)
    assert all(np.array_equal(a.responses[1].tokens, b.responses[1].tokens) for a, b in zip(once, again, strict=True))
    assert not np.array_equal(once[0].prompt, other[0].prompt)


@pytest.mark.parametrize("length", [1, 7, 1000])
def test_tokens_are_in_the_vocabulary_and_never_zero(length: int) -> None:
    response = synthetic.TextSource(0, 0).response(length)
    assert len(response.tokens) == len(response.generated) == length
    assert response.tokens.dtype == np.int32
    assert 1 <= response.tokens.min() <= response.tokens.max() < synthetic.VOCAB_SIZE


LINES = traces_of.rows(6, 3, words=80)
CASE = scale.Case("small", groups=2, siblings=3, tokens=40, steps=2)


def test_a_case_of_generated_text_has_room_for_its_steps(tmp_path: Path) -> None:
    path = tmp_path / "case.npy"
    assert scale.write(CASE, [], None, path, shapes=1) == 0
    requests = scale.read(CASE, path)
    assert [(r.id, r.group, r.known) for r in requests] == [(i, i // 3, scale.PROMPT_TOKENS) for i in range(6)]
    # 3 blocks of 2 untimed and 2 timed steps and one of single calls, at most 3 tokens each.
    assert {len(r.tokens) >= scale.PROMPT_TOKENS + 40 + 3 * 3 * (2 + 2 + 1) for r in requests} == {True}
    prompts = {(r.group, r.tokens[: scale.PROMPT_TOKENS].tobytes()) for r in requests}
    assert len(prompts) == 2


def test_a_case_takes_real_text_while_it_lasts(tmp_path: Path) -> None:
    one: TraceSet = read_file(traces_of.write(tmp_path / "a.jsonl.zst", LINES))
    tokenizer = tokens.tokenizer_of([one], most_chars=10**6, cache=tmp_path)
    path = tmp_path / "case.npy"
    real = scale.write(CASE, [one], tokenizer, path, shapes=1)
    assert real == 1
    text = tokenizer.decode(scale.read(CASE, path)[1].tokens[scale.PROMPT_TOKENS :].tolist())
    assert any(text[20:60] in response for line in LINES for response in line["responses"])
