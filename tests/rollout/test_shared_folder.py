"""Two real engines share KV in a folder: what moves finds its prefix, and a broken store only costs time."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file, save_file

from sglang_seer.rollout import RolloutController
from tests.rollout.fleet_of_stubs import until
from tests.rollout.real_engines import RealEngine, assert_equal, folder_of_example, unchunked
from tests.rollout.sharing_engines import (
    PAGE,
    Answers,
    computed_again,
    forget,
    fresh_version,
    moved,
    prompts,
    shared,
    sharing_engines,
    waiting_for_pages,
)


@dataclass(frozen=True)
class Sharing:
    engines: list[RealEngine]
    folder: Path

    def pages(self) -> list[Path]:
        return list(self.folder.glob("*.bin"))

    def stored(self, hashes: Sequence[str]) -> bool:
        return {path.name.split("_")[0] for path in self.pages()}.issuperset(hashes)


@pytest.fixture(scope="module")
def sharing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sharing]:
    folder = tmp_path_factory.mktemp("sharing")
    # SGLang ends where another engine makes it between its look and its mkdir.
    pages = folder / "kv"
    pages.mkdir()
    variables = {"SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR": str(pages)}
    with sharing_engines(folder, "file", {"prefetch_timeout_base": 30}, variables) as engines:
        yield Sharing(engines, pages)


@pytest.fixture
async def whole(engines: dict[str, RealEngine], problems: list[list[int]]) -> Answers:
    """What stock SGLang answers."""
    return await unchunked(engines["stock"], prompts(problems[:4]))


async def test_a_chunk_that_moves_prefills_a_page_at_most(
    sharing: Sharing, problems: list[list[int]], whole: Answers
) -> None:
    with waiting_for_pages(sharing.stored):
        samples, rollout = await shared(sharing.engines, prompts(problems[:4]), version=fresh_version())
    assert_equal(samples, whole)
    assert len(moved(samples)) == rollout.counts.moved > 5
    assert max(map(computed_again, moved(samples))) <= PAGE
    assert rollout.counts.pulled_tokens == sum(chunk.pulled_tokens for s in samples for chunk in s.chunks) > 5 * PAGE


async def test_engines_with_empty_caches_read_the_store(
    sharing: Sharing, problems: list[list[int]], whole: Answers
) -> None:
    """What they do not find whole is computed again."""
    version = fresh_version()
    await shared(sharing.engines, prompts(problems[:4]), version=version)
    await forget(sharing.engines)
    samples, rollout = await shared(sharing.engines, prompts(problems[:4]), version=version)
    assert_equal(samples, whole)
    assert rollout.counts.pulled_tokens > 5 * PAGE
    await forget(sharing.engines)
    for page in sharing.pages():
        os.truncate(page, page.stat().st_size // 2)
    samples, rollout = await shared(sharing.engines, prompts(problems[:4]), version=version)
    assert_equal(samples, whole)
    assert rollout.counts.pulled_tokens == 0


@contextmanager
def gone(sharing: Sharing) -> Iterator[None]:
    """There is a file where the folder was."""
    away = sharing.folder.with_name("away")
    sharing.folder.rename(away)
    sharing.folder.write_text("")
    try:
        yield
    finally:
        sharing.folder.unlink()
        away.rename(sharing.folder)


@contextmanager
def full(sharing: Sharing) -> Iterator[None]:
    """No engine can write a file as large as a page, as on a full disk."""
    page_bytes = sharing.pages()[0].stat().st_size
    processes = [
        process
        for engine in sharing.engines
        for process in psutil.Process(engine.server.process.pid).children(recursive=True)
    ]
    before = {process: process.rlimit(resource.RLIMIT_FSIZE) for process in processes}
    try:
        for process, (_, most) in before.items():
            process.rlimit(resource.RLIMIT_FSIZE, (page_bytes // 2, most))
        yield
    finally:
        for process, limits in before.items():
            process.rlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("harm", [gone, full])
async def test_a_store_that_fails_costs_a_prefill_and_nothing_else(
    sharing: Sharing,
    problems: list[list[int]],
    whole: Answers,
    harm: Callable[[Sharing], AbstractContextManager[None]],
) -> None:
    harmed: list[AbstractContextManager[None]] = []

    async def disturb(rollout: RolloutController) -> None:
        await until(lambda: rollout.counts.chunks > 20)
        harmed.append(harm(sharing))
        harmed[0].__enter__()

    try:
        samples, rollout = await shared(
            sharing.engines, prompts(problems[:4]), version=fresh_version(), disturb=disturb
        )
    finally:
        for one in harmed:
            one.__exit__(None, None, None)
    assert_equal(samples, whole)
    again = [computed_again(chunk) for chunk in moved(samples)]
    assert max(again) > PAGE
    assert rollout.counts.prefilled_again_tokens >= sum(again) - len(again)
    # And it is used again once it is back.
    samples, rollout = await shared(sharing.engines, prompts(problems[:4]), version=fresh_version())
    assert_equal(samples, whole)
    assert rollout.counts.pulled_tokens > 0


async def test_the_store_is_emptied_between_rollouts(sharing: Sharing, problems: list[list[int]]) -> None:
    version = fresh_version()
    wanted = prompts(problems, samples=1)
    await shared(sharing.engines, wanted, version=version)
    await forget(sharing.engines)
    assert sharing.pages()
    async with RolloutController([engine.url for engine in sharing.engines]) as rollout:
        await rollout.release_kv()
    assert not sharing.pages()
    samples, _ = await shared(sharing.engines, wanted, version=version)
    assert sum(sample.chunks[0].pulled_tokens for sample in samples) == 0


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, a little further trained as it were."""
    folder = tmp_path_factory.mktemp("weights") / "model"
    shutil.copytree(folder_of_example() / "model", folder)
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        changed = {name: tensor * 1.25 if "v_proj" in name else tensor for name, tensor in tensors.items()}
        file.chmod(0o644)
        save_file(changed, file, metadata={"format": "pt"})
    return folder


async def load(engines: Sequence[RealEngine], weights: Path) -> None:
    async with RolloutController([engine.url for engine in engines]) as rollout:
        await rollout.update_weights(weights, version=weights.parent.name)


async def test_kv_of_other_weights_is_never_taken(
    sharing: Sharing, problems: list[list[int]], other_weights: Path
) -> None:
    # One sample of each: siblings would find what the others store.
    wanted = prompts(problems, samples=1)
    before = fresh_version()
    await shared(sharing.engines, wanted, version=before)
    await load(sharing.engines, other_weights)
    try:
        # Requests of no version, so with KV of nobody.
        whole = await unchunked(sharing.engines[0], wanted)
        samples, rollout = await shared(sharing.engines, wanted, version=fresh_version())
        assert_equal(samples, whole)
        assert sum(sample.chunks[0].pulled_tokens for sample in samples) == 0
        # Negative control: a caller who does not tell of the new weights.
        await forget(sharing.engines)
        samples, rollout = await shared(sharing.engines, wanted, version=before)
        assert rollout.counts.pulled_tokens > 0
        with pytest.raises(AssertionError):
            assert_equal(samples, whole)
    finally:
        await load(sharing.engines, folder_of_example() / "model")
