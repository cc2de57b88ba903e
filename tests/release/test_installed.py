"""The wheel, built from the sdist, in an environment of its own: it is what runs there, and it works."""

from __future__ import annotations

import json
from pathlib import Path

import sglang_seer
from tests.reasoner import REASONER
from tests.release.conftest import Environment

# A server in the library's way; its samples are compared with stock SGLang's elsewhere.
ENGINE = """
import sglang as sgl

if __name__ == "__main__":
    engine = sgl.Engine(model_path={model!r}, schedule_policy="seer", max_total_tokens=4096)
    prompts = [[5, 6, 7, 8]] * 4
    seeds = [{{"max_new_tokens": 16, "temperature": 1.0, "ignore_eos": True}}] * 4
    answers = engine.generate(input_ids=prompts, sampling_params=seeds)
    state = engine.get_server_info()["internal_states"][0]["sglang_seer"]
    print("said", [len(one["output_ids"]) for one in answers], state["parts"], state["version"])
    engine.shutdown()
"""
WHERE = """
import importlib.metadata, json
import sglang_seer, sglang_seer.kernels, sglang_seer.patches.lines, sglang_seer.draft._index as index
found = [entry.dist.version for entry in importlib.metadata.entry_points(group="sglang.srt.plugins", name="seer")]
names = [sglang_seer.__file__, index.__file__, *sglang_seer.kernels.__path__, sglang_seer.patches.lines.__file__]
print(json.dumps([names, found, sglang_seer.__version__]))
"""


def test_what_is_imported_there_is_the_wheel(environment: Environment) -> None:
    done = environment.run("-c", WHERE)
    assert done.returncode == 0, done.stderr[-2000:]
    names, found, version = json.loads(done.stdout)
    home = environment.python.parents[1]
    assert [name for name in names if not Path(name).is_relative_to(home)] == []
    assert found == [sglang_seer.__version__] == [version]


def test_doctor_is_content(environment: Environment) -> None:
    done = environment.run("-m", "sglang_seer", "doctor")
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    assert "ready: start SGLang with --scheduler-policy seer" in done.stdout


def test_doctor_sees_a_wheel_without_its_extension(environment: Environment) -> None:
    """Negative control of the test above."""
    (extension,) = environment.python.parents[1].glob("lib/python*/site-packages/sglang_seer/draft/_index.*.so")
    away = extension.with_suffix(".away")
    extension.rename(away)
    try:
        done = environment.run("-m", "sglang_seer", "doctor")
    finally:
        away.rename(extension)
    assert done.returncode == 2
    assert "the C++ extension does not load" in done.stderr


def test_benchmarks_say_that_they_are_elsewhere(environment: Environment) -> None:
    done = environment.run("-m", "sglang_seer", "bench", "draft")
    assert done.returncode == 2
    assert "part of the repository, not of the installed package" in done.stderr


def test_the_demo_says_what_it_lacks(environment: Environment) -> None:
    """Its model and its prompts are in the repository."""
    done = environment.run("-m", "sglang_seer", "demo")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "the demo's own prompts need a checkout" in done.stderr


def test_an_engine_runs_with_it(environment: Environment) -> None:
    code = environment.folder / "engine.py"
    code.write_text(ENGINE.format(model=str(REASONER / "model")))
    done = environment.run(str(code), more={"SGLANG_PLATFORM": "seer_cpu"})
    assert done.returncode == 0, done.stderr[-3000:]
    (said,) = (line for line in done.stdout.splitlines() if line.startswith("said"))
    assert said == f"said [16, 16, 16, 16] ['scheduling', 'speculation'] {sglang_seer.__version__}"
