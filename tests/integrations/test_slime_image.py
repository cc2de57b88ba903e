"""The SGLang of slime's image, which slime patches: Seer knows it, and its engines give the same samples with Seer.

Its patches come with a checkout of slime: `./run test-slime CHECKOUT`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sglang_seer.patches import lines
from tests.cpu_platform.cpu_lines import line_python
from tests.cpu_platform.engines import EngineHost
from tests.patches.test_older_lines import MODES, ROLLOUTS, Run, differences, environment_with_seer, rollout, run_engine

CHECKOUT = os.environ.get("SLIME_CHECKOUT")
VERSION = "0.5.15.post1"
# In the order of its Dockerfile.
PATCHES = ("sglang.patch", "sglang-top_p.patch", "sglang-release_hicache.patch", "sglang-pull_weights.patch")
# For replay in training: which token ids the filters kept, and log-probabilities among those.
KEPT = {"custom_params": {"return_top_p_token_ids": True}, "top_p": 0.8}
KEPT_ROLLOUTS = {
    "kept": rollout(more={"return_logprob": True}, **KEPT),
    "kept, by top-k": rollout(more={"return_logprob": True}, **{**KEPT, "top_p": 1.0, "top_k": 5}),
    "seeded": ROLLOUTS["seeded"],
    "log-probabilities": ROLLOUTS["log-probabilities"],
}

pytestmark = pytest.mark.skipif(CHECKOUT is None, reason="wants a checkout of slime: ./run test-slime CHECKOUT")


@pytest.fixture(scope="module")
def python() -> str:
    return line_python("0.5.15")


@pytest.fixture(scope="module")
def image(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the `sglang` of the image."""
    folder = tmp_path_factory.mktemp("image")
    find = "import importlib.util; print(importlib.util.find_spec('sglang').submodule_search_locations[0])"
    installed = subprocess.run([python, "-P", "-c", find], check=True, capture_output=True, text=True).stdout.strip()
    shutil.copytree(installed, folder / "python/sglang", ignore=shutil.ignore_patterns("__pycache__"))
    assert lines.refusal_reasons(folder / "python/sglang", VERSION) == []
    for name in PATCHES:
        patch = Path(str(CHECKOUT)) / "docker/patch" / f"v{VERSION}" / name
        subprocess.run(["git", "apply", str(patch)], cwd=folder, check=True)
    return folder / "python"


@pytest.fixture(scope="module")
def runs(python: str, image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """Without Seer, and with Seer in the place of NGRAM."""
    environment = environment_with_seer(tmp_path_factory.mktemp("plugin"), str(image))
    with EngineHost(python, tmp_path_factory.mktemp("line"), environment) as host:
        yield {mode: run_engine(host, MODES[mode], tmp_path_factory, KEPT_ROLLOUTS) for mode in ("stock", "taken over")}


def test_it_is_known(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines.refusal_reasons(image / "sglang", VERSION) == []
    # Negative control: it is another SGLang than the one on PyPI.
    monkeypatch.setattr(lines, "SUPPORTED", {VERSION: replace(lines.SUPPORTED[VERSION], builds={})})
    reasons = "\n".join(lines.refusal_reasons(image / "sglang", VERSION))
    assert "compute_spec_v2_logprobs: parameters are" in reasons


def test_samples_are_those_of_the_image(runs: dict[str, Run]) -> None:
    taken = runs["taken over"]
    assert differences(taken, runs["stock"]) == []
    assert taken.status is not None and taken.status["parts"] == ["scheduling", "speculation"]
    assert taken.status["counters"]["drafted"] > 0


@pytest.mark.parametrize("name", ["kept", "kept, by top-k"])
def test_the_kept_tokens_are_those_of_the_image(runs: dict[str, Run], name: str) -> None:
    wanted = [answer["meta_info"] for answer in runs["stock"].answers[name]]
    seen = [answer["meta_info"] for answer in runs["taken over"].answers[name]]
    for key in ("top_p_token_ids", "top_p_token_offsets"):
        assert [one[key] for one in seen] == [one[key] for one in wanted]
    assert sum(one["spec_verify_ct"] for one in seen) > 0
