"""The adapters: what can be checked of them without the peers, and how a missing peer is told."""

from __future__ import annotations

import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.draft.drafter import PeerUnavailable, Request, Shape
from bench.draft.systems import arctic, arctic_install
from bench.draft.systems.sglang_ngram import SGLangNgram

TREE8 = Shape("tree8", 8)


def requests(*known: int) -> list[Request]:
    return [Request(number, 0, np.arange(1, 41, dtype=np.int32), 4, end) for number, end in enumerate(known)]


class Corpus:
    def __init__(self) -> None:
        self.put: list[list[int]] = []

    def batch_put(self, tokens: list[list[int]]) -> None:
        self.put += tokens

    def synchronize(self) -> None:
        self.put.append([-1])


def mask_of(parents: list[int]) -> np.ndarray:
    """Row i marks node i, its ancestors and the root; parents[i] is that of node i + 1."""
    mask = np.zeros((len(parents) + 1,) * 2, dtype=np.int64)
    mask[0, 0] = 1
    for node, parent in enumerate(parents, start=1):
        mask[node] = mask[parent]
        mask[node, node] = 1
    return mask


def test_sglangs_masks_become_parents_without_the_filler() -> None:
    drafter = SGLangNgram(None, 18, 8, prompt=False)
    # The corpus of the texts 1 2 3 4 5 and 1 2 3 7 8, asked for what follows 1 2 3, and for an unknown token.
    tokens = np.array([3, 4, 7, 5, 8, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0])
    mask = np.concatenate([mask_of([0, 0, 1, 2, 0, 0, 0, 0]).ravel(), mask_of([0] * 8).ravel()])
    drafts = drafter.drafts((tokens, mask))
    assert (drafts.tokens, drafts.parents, drafts.starts) == ([4, 7, 5, 8], [-1, -1, 0, 1], [0, 4, 4])


def test_sglang_is_fed_the_tails_its_worker_feeds() -> None:
    corpus = Corpus()
    drafter = SGLangNgram(corpus, 6, 8, prompt=False)
    drafter.open(requests(4, 4))
    drafter.append(drafter.append_args(requests(12, 5), [2, 1]))
    assert corpus.put == [[7, 8, 9, 10, 11, 12], [1, 2, 3, 4, 5], [-1]]
    names, tails, lengths = drafter.propose_args(requests(12, 5))
    assert (names, tails, lengths) == (["0", "1"], [[7, 8, 9, 10, 11, 12], [1, 2, 3, 4, 5]], [12, 5])


def test_with_prompts_sglang_gets_each_prompt_once_and_long_context_whole() -> None:
    corpus = Corpus()
    drafter = SGLangNgram(corpus, 6, 8, prompt=True)
    drafter.open(requests(4, 4))
    drafter.append(drafter.append_args(requests(14, 14), [10, 2]))
    assert corpus.put == [[1, 2, 3, 4], [-1], list(range(1, 15)), [9, 10, 11, 12, 13, 14], [-1]]


def test_arctic_asks_for_the_shape_and_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Cache:
        def __init__(self, max_tree_depth: int) -> None:
            self.depth = max_tree_depth

        def speculate(self, request: int, context: np.ndarray, *limits: Any) -> Any:
            asked.append((request, context.tolist(), limits))
            return SimpleNamespace(token_ids=[5, 6], parents=[-1, 0], probs=[0.75, 0.5])

    monkeypatch.setattr(arctic, "load", lambda: SimpleNamespace(SuffixDecodingCache=Cache))
    drafter = arctic.make(arctic.FULL | {"scope": "cache", "depth": 3}, TREE8, vocab_size=9, capacity_tokens=9)
    drafts = drafter.drafts(drafter.propose(drafter.propose_args(requests(9, 2))))
    assert asked == [(0, [7, 8, 9], (8, 1.0, 64.0, 0.0, True)), (1, [1, 2], (8, 1.0, 64.0, 0.0, True))]
    assert (drafts.tokens, drafts.parents, drafts.starts) == ([5, 6, 5, 6], [-1, 0, -1, 0], [0, 2, 4])
    assert drafts.probabilities is not None and drafts.probabilities.tolist() == [0.75, 0.5, 0.75, 0.5]


def fake_uv(folder: Path, script: str) -> Path:
    path = folder / "uv"
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_failed_install_says_why_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uv = fake_uv(tmp_path, "echo 'no route to the index' >&2\nexit 1\n")
    monkeypatch.setattr(arctic_install, "_uv", lambda: [str(uv)])
    folder = tmp_path / "peers" / "arctic"
    with pytest.raises(PeerUnavailable, match="no route to the index"):
        arctic_install.load(folder)
    assert list(folder.parent.iterdir()) == []


def test_the_pinned_version_is_installed_once_and_over_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f"""
    echo "$@" >> {tmp_path}/calls
    while [ "$1" != --target ]; do shift; done
    mkdir -p "$2/arctic_inference-x.dist-info"
    echo "Version: {arctic_install.VERSION}" > "$2/arctic_inference-x.dist-info/METADATA"
    """
    uv = fake_uv(tmp_path, script)
    monkeypatch.setattr(arctic_install, "_uv", lambda: [str(uv)])
    folder = tmp_path / "peers" / "arctic"
    old = folder / "arctic_inference-old.dist-info"
    old.mkdir(parents=True)
    (old / "METADATA").write_text("Version: 0.1.2\n")
    for _ in range(2):
        # The fake package holds no module.
        with pytest.raises(PeerUnavailable, match="cannot be imported"):
            arctic_install.load(folder)
    assert arctic_install.installed_version(folder) == arctic_install.VERSION
    assert not old.exists()
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert f"arctic-inference=={arctic_install.VERSION}" in call and "--no-deps" in call
