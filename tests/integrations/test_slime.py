"""slime's rollout with Seer's functions equals its own, sample by sample, on real engines.

slime is a stand-in here; with SLIME_CHECKOUT it is the real one (`./run test-slime`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from sglang_seer.demo.servers import ServerPlan, pick_port, serve
from sglang_seer.integrations.slime import GENERATE_PATH, generate, generate_rollout
from sglang_seer.integrations.slime.engines import engines_of_process
from tests.integrations.slime_side import (
    Prompts,
    Sample,
    arguments,
    assert_equal,
    by_index,
    generated,
    meanwhile,
    rollout,
    routing,
)
from tests.rollout.conftest import COMMON_FLAGS, SIDES, START_TIMEOUT_S
from tests.rollout.fleet_of_stubs import Arrivals, until
from tests.rollout.real_engines import RealEngine, folder_of_example

Engines = dict[str, RealEngine]
# Samples after which prompts and seeds come again.
ROUND = 12


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """A stock one for slime's own path, and two with Seer."""
    folder = tmp_path_factory.mktemp("engines")
    with ExitStack() as stack:
        started = {}
        for name in ("stock", "seer", "seer2"):
            flags, extra = SIDES[name.rstrip("2")]
            environment = {"SGLANG_PLATFORM": "seer_cpu", "HF_HUB_OFFLINE": "1", **extra}
            plan = ServerPlan(label=name, port=pick_port(None), flags=(*COMMON_FLAGS, *flags), environment=environment)
            started[name] = RealEngine(stack.enter_context(serve(plan, folder)))
        for engine in started.values():
            engine.server.wait_until_ready(START_TIMEOUT_S)
        yield started


@pytest.fixture(scope="module")
def own(engines: Engines) -> Iterator[int]:
    """Port of the router that slime's own path goes through."""
    with routing([engines["stock"].url]) as port:
        yield port


@pytest.fixture(scope="module")
def seer(engines: Engines) -> Iterator[int]:
    """Port of the router over the engines with Seer."""
    with routing([engines["seer"].url, engines["seer2"].url]) as port:
        yield port


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Problems with the chat template applied, as slime's data source gives them."""
    from transformers import AutoTokenizer

    sys.path.insert(0, str(folder_of_example()))
    try:
        import prompts as make
    finally:
        sys.path.remove(str(folder_of_example()))
    tokenizer = AutoTokenizer.from_pretrained(folder_of_example() / "model")
    chats = [[{"role": "user", "content": line["prompt"]}] for line in make.make_prompts(seed=11, n=3)]
    return [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]


def samples_of(texts: list[str]) -> list[Any]:
    return [Sample(group_index=number, index=number, prompt=text) for number, text in enumerate(texts)]


def slimes_own(port: int, texts: list[str], groups: int, **options: Any) -> dict[int, Any]:
    args = arguments(port, rollout_batch_size=groups, over_sampling_batch_size=groups, **options)
    return by_index(rollout.generate_rollout(args, 0, Prompts(args, texts)).samples)


@pytest.fixture(scope="module")
def wanted(own: int, texts: list[str]) -> dict[int, Any]:
    """Five groups, two of one prompt, by slime itself."""
    return slimes_own(own, texts, 5)


def test_a_rollout(seer: int, texts: list[str], wanted: dict[int, Any]) -> None:
    args = arguments(seer, rollout_batch_size=5, over_sampling_batch_size=5)
    output = generate_rollout(args, 0, Prompts(args, texts))
    ours = by_index(output.samples)
    assert sorted(ours) == sorted(wanted)
    for index, sample in ours.items():
        assert_equal(sample, wanted[index])
    assert {sample.status.value for sample in ours.values()} == {"completed", "truncated"}
    # Groups of one prompt and the same seeds are equal and apart.
    twins = [(ours[index], ours[index + 9]) for index in range(3)]
    assert all(a.tokens == b.tokens and a.group_index != b.group_index for a, b in twins)
    assert output.metrics["seer/engines"] == 2
    assert output.metrics["seer/chunks"] > 2 * len(ours)
    assert output.metrics["seer/generated_tokens"] == sum(sample.response_length for sample in ours.values())
    assert output.metrics["seer/broken"] == output.metrics["seer/whole"] == 0
    # What it was called with is the caller's.
    assert args.custom_generate_function_path is None


def test_another_seed_is_another_rollout(own: int, texts: list[str], wanted: dict[int, Any]) -> None:
    """Negative control of the comparison."""
    other = slimes_own(own, texts, 1, rollout_seed=7)
    with pytest.raises(AssertionError):
        for index, sample in other.items():
            assert_equal(sample, wanted[index])


@pytest.mark.parametrize("function", [generate_rollout, rollout.generate_rollout], ids=["ours", "slimes"])
def test_abort_in_mid_rollout_and_on_with_it(
    seer: int, texts: list[str], wanted: dict[int, Any], function: Any
) -> None:
    """Over-sampling with partial rollout: what is aborted goes on in the next step, and ends as if it never was."""
    # More samples than may run at a time: when a group ends, others are in their middle.
    few = {"chunk_tokens": 24, "stream_tokens": 8, "poll_s": 0.2, "max_running": 2}
    options = {"rollout_batch_size": 1, "over_sampling_batch_size": 3, "partial_rollout": True, "seer_rollout": few}
    args = arguments(seer, custom_generate_function_path=GENERATE_PATH, **options)
    source = Prompts(args, texts)
    finished, cut = {}, 0
    for step in range(3):
        finished |= by_index(function(args, step, source).samples)
        unfinished = [sample for sample in chain(*source.given_back) if sample.status is Sample.Status.ABORTED]
        cut += sum(sample.response_length > 0 for sample in unfinished)
        for sample in unfinished:
            assert sample.response_length == len(sample.rollout_log_probs or ())
            whole = wanted[sample.index % ROUND]
            assert (
                sample.tokens[len(sample.tokens) - sample.response_length :]
                == (whole.tokens[-whole.response_length :][: sample.response_length])
            )
    assert cut > 0
    assert len(finished) == 9
    for index, sample in finished.items():
        whole = wanted[index % ROUND]
        assert (sample.tokens, sample.response, sample.status) == (whole.tokens, whole.response, whole.status)
        assert sample.loss_mask == whole.loss_mask
        pairs = zip(sample.rollout_log_probs, whole.rollout_log_probs, strict=True)
        assert max(abs(a - b) for a, b in pairs) < 1e-5


@pytest.mark.parametrize(
    ("chunk_tokens", "sampling", "look"),
    [
        # Found over a seam: no engine sees such a string whole.
        (3, {"stop": ["Answer: ", "ones 1", "so 2", ".\nNow #"]}, lambda s: s.status is Sample.Status.COMPLETED),
        (32, {"max_new_tokens": 96, "ignore_eos": True}, lambda s: s.response_length == 96),
        (7, {"temperature": 4.0, "max_new_tokens": 40, "ignore_eos": True, "bytes": True}, lambda s: "é" in s.response),
    ],
    ids=["stop", "limit", "characters"],
)
def test_seams(own: int, seer: int, texts: list[str], chunk_tokens: int, sampling: dict[str, Any], look: Any) -> None:
    args = arguments(own)
    if sampling.pop("bytes", False):
        tokens = rollout.GenerateState(args).tokenizer.encode("\u2764é", add_special_tokens=False)
        sampling = {**sampling, "logit_bias": {str(token): 60.0 for token in tokens}}
    whole = generated(args, rollout.generate, samples_of(texts), **sampling)
    args = arguments(seer, seer_rollout={"chunk_tokens": chunk_tokens})
    for ours, theirs in zip(generated(args, generate, samples_of(texts), **sampling), whole, strict=True):
        assert_equal(ours, theirs)
    assert any(look(sample) for sample in whole)


def test_a_turn_with_a_tool(own: int, seer: int, texts: list[str]) -> None:
    functions = "tests.integrations.slime_functions"
    path = f"{functions}.with_tool_in_slime"
    whole = slimes_own(own, texts, 2, custom_generate_function_path=path)
    args = arguments(
        seer,
        rollout_batch_size=2,
        over_sampling_batch_size=2,
        custom_generate_function_path=f"{functions}.with_tool",
    )
    ours = by_index(generate_rollout(args, 0, Prompts(args, texts)).samples)
    for index, sample in ours.items():
        assert_equal(sample, whole[index])
        assert 0 in sample.loss_mask and "The tool says" in sample.response
        assert sample.weight_versions == ["default", "default"]


def test_other_weights_in_the_next_step(
    engines: Engines, own: int, seer: int, texts: list[str], wanted: dict[int, Any], tmp_path: Path
) -> None:
    """Each step's samples are those of its weights, and say so."""
    model = other_weights(tmp_path)
    try:
        load(engines, model, "2")
        theirs = slimes_own(own, texts, 2)
        args = arguments(seer, rollout_batch_size=2, over_sampling_batch_size=2)
        ours = by_index(generate_rollout(args, 1, Prompts(args, texts)).samples)
        for index, sample in ours.items():
            assert_equal(sample, theirs[index])
            assert sample.weight_versions == ["2"]
        assert any(sample.tokens != wanted[index].tokens for index, sample in ours.items())
        load({"seer2": engines["seer2"]}, model, "3")
        with pytest.raises(ValueError, match=r"same weights; weight_version: .*'2'.*'3'"):
            generate_rollout(args, 2, Prompts(args, texts))
    finally:
        load(engines, str(folder_of_example() / "model"), "default")


def other_weights(folder: Path) -> str:
    """The model with another last norm."""
    import shutil

    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(folder_of_example() / "model", folder / "model")
    (file,) = copy.glob("*.safetensors")
    tensors = load_file(file)
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 0.8
    save_file(tensors, file, metadata={"format": "pt"})
    return str(copy)


def load(engines: Engines, model: str, version: str) -> None:
    import requests

    for engine in engines.values():
        body = {"model_path": model, "weight_version": version, "flush_cache": True}
        answer = requests.post(engine.url + "/update_weights_from_disk", json=body, timeout=60)
        assert answer.json()["success"], answer.text


def test_seer_in_one_engine_only(engines: Engines, texts: list[str]) -> None:
    with routing([engines["stock"].url, engines["seer"].url]) as port:
        args = arguments(port)
        with pytest.raises(ValueError, match=r"Seer must run alike on all engines; saw .*: off, .*: on"):
            generate_rollout(args, 0, Prompts(args, texts))


def test_an_engine_is_killed(engines: Engines, seer: int, texts: list[str], wanted: dict[int, Any]) -> None:
    """Last of this file: it stays dead."""
    args = arguments(
        seer,
        rollout_batch_size=5,
        over_sampling_batch_size=5,
        seer_rollout={"chunk_tokens": 48, "stream_tokens": 8, "poll_s": 0.2, "silent_s": 2.0},
    )

    async def kill() -> None:
        ours = engines_of_process(args)
        await until(lambda: ours._rollout is not None)
        assert ours._rollout is not None
        arrivals = Arrivals(ours._rollout)
        await until(lambda: arrivals.on(engines["seer2"].url) > 0)
        engines["seer2"].kill()

    killer = meanwhile(kill())
    output = generate_rollout(args, 0, Prompts(args, texts))
    killer.result()
    for index, sample in by_index(output.samples).items():
        assert_equal(sample, wanted[index])
    assert output.metrics["seer/engines_lost"] == 1
    assert output.metrics["seer/broken"] > 0
