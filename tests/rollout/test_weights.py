"""New weights between rollouts: on stand-ins, and on a stock and a Seer engine that keep nothing of the old ones."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sglang_seer.rollout import Prompt, RolloutConfig, RolloutController, RolloutError
from sglang_seer.rollout.client import EngineClient, EngineError
from tests.rollout.fleet_of_stubs import config, prompts, stubs, until
from tests.rollout.real_engines import RealEngine, assert_equal, folder_of_example, unchunked

Engines = dict[str, RealEngine]
SHIPPED = folder_of_example() / "model"
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "any_trainer.py"
TIMEOUT_S = 400.0


async def test_all_engines_get_the_weights_and_forget() -> None:
    async with stubs(2) as engines:
        async with RolloutController([engine.url for engine in engines], config=config()) as controller:
            [_ async for _ in controller.samples(prompts(2))]
            await controller.update_weights("/models/one", "1")
            samples = [sample async for sample in controller.samples(prompts(2))]
            # An engine that comes back with the weights of the start does not fit in any more.
            engines[0].behaviour.loaded = None
            controller.links[engines[0].url].suspect.set()
            await until(lambda: controller.buffer.up == {engines[1].url})
            assert "model_path" in controller.links[engines[0].url].last_error
        assert [(engine.behaviour.loaded, engine.seen.flushes) for engine in engines] == [
            (None, 1),
            ("/models/one", 1),
        ]
    assert {version for sample in samples for version in sample.weight_versions} == {"1"}


async def test_an_engine_that_does_not_follow_is_named() -> None:
    async with stubs(2) as engines:
        async with RolloutController([engine.url for engine in engines], config=config()) as controller:
            engines[1].behaviour.fault = "error"
            with pytest.raises(RolloutError, match=f"weights '1' are not everywhere: {engines[1].url}") as raised:
                await controller.update_weights("/models/one", "1")
        assert engines[0].url not in str(raised.value)


async def test_not_in_mid_rollout() -> None:
    async with stubs(1, seconds_per_token=0.01) as engines:
        async with RolloutController([engines[0].url], config=config()) as controller:
            samples = controller.samples(prompts(2))
            await anext(samples)
            with pytest.raises(RuntimeError, match="a rollout is running"):
                await controller.update_weights("/models/one", "1")
            await samples.aclose()
        with pytest.raises(RuntimeError, match="async context manager"):
            await controller.update_weights("/models/one", "1")


@pytest.fixture
async def restored(engines: Engines) -> AsyncIterator[Engines]:
    """The session's engines; they serve the shipped weights again afterwards."""
    try:
        yield engines
    finally:
        for engine in engines.values():
            async with EngineClient(engine.url) as client:
                await client.update_weights(str(SHIPPED), "default", TIMEOUT_S)


def changed_weights(folder: Path) -> Path:
    """The shipped model with flatter probabilities."""
    shutil.copytree(SHIPPED, folder)
    weights = load_file(SHIPPED / "model.safetensors")
    weights["model.norm.weight"] *= 0.9
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


async def test_real_engines_keep_nothing_of_old_weights(
    restored: Engines, problems: list[list[int]], tmp_path: Path
) -> None:
    """Draft texts, lengths and KV go; what is sampled then is what stock SGLang samples with the new weights."""
    seer = restored["seer"]
    sampling = {"temperature": 1.0, "max_new_tokens": 120}
    # One prompt: the first tokens of all are alike.
    wanted = [Prompt(group="weights", input_ids=problems[0], samples=6, sampling=sampling)]

    async def roll(controller: RolloutController) -> list[Any]:
        return [sample async for sample in controller.samples(wanted)]

    def first_cached(samples: list[Any]) -> int:
        """Least of the prompt that a first chunk found in a prefix cache."""
        return min(sample.chunks[0].cached_tokens for sample in samples)

    patient = RolloutConfig(chunk_tokens=48, logprobs=True, poll_s=0.2)
    async with RolloutController([seer.url], config=patient) as controller:
        await roll(controller)
        before = await roll(controller)
        # There is something to forget, and a second rollout of the same weights finds it.
        kept = await seer.seer()
        assert kept["drafts"]["tokens"] > 0 and kept["groups"] > 0
        assert first_cached(before) > 0
        folder = changed_weights(tmp_path / "changed")
        await controller.update_weights(folder, "changed")
        gone = await seer.seer()
        assert (gone["drafts"]["tokens"], gone["drafts"]["groups"], gone["groups"]) == (0, 0, 0)
        assert gone["counters"]["flushes"] == kept["counters"].get("flushes", 0) + 1
        after = await roll(controller)
    assert first_cached(after) == 0
    assert all(sample.weight_versions == ["changed"] for sample in after)
    async with EngineClient(restored["stock"].url) as client:
        await client.update_weights(str(folder), "changed", TIMEOUT_S)
    assert_equal(after, await unchunked(restored["stock"], wanted))
    # Negative control: the weights make a difference.
    with pytest.raises(AssertionError):
        assert_equal(before, await unchunked(restored["stock"], wanted))


async def test_weights_that_cannot_be_loaded(restored: Engines, tmp_path: Path) -> None:
    async with EngineClient(restored["seer"].url) as client:
        with pytest.raises(EngineError, match="update_weights_from_disk: status 400"):
            await client.update_weights(str(tmp_path / "missing"), "1", TIMEOUT_S)


async def test_any_trainer(restored: Engines, tmp_path: Path) -> None:
    """Two steps of the example on both engines; the trained weights arrive."""
    make = [sys.executable, str(folder_of_example() / "prompts.py"), "--seed", "3", "--n", "3", "--level", "easy"]
    lines = subprocess.run(make, capture_output=True, text=True, timeout=TIMEOUT_S, check=True).stdout
    (tmp_path / "prompts.jsonl").write_text(lines)
    urls = [engine.url for engine in restored.values()]
    command = [sys.executable, str(EXAMPLE), "--engines", *urls, "--model", str(SHIPPED)]
    command += ["--prompts", str(tmp_path / "prompts.jsonl"), "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--steps", "2", "--batch", "2", "--limit", "160"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == ["step 1: 16 samples", "step 2: 16 samples"]
    for engine in restored.values():
        assert (await engine.get("/model_info"))["weight_version"] == "step-2"
    trained = load_file(tmp_path / "step-2" / "model.safetensors")
    shipped = load_file(SHIPPED / "model.safetensors")
    assert not all(torch.equal(trained[name], shipped[name]) for name in shipped)
