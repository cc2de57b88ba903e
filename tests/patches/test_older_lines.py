"""Every supported SGLang line with Seer, each in an environment of its own: samples are those of the line without Seer.

What these tests see is kept in `seen_lines.json`, which the table in README.md is made from. After a change of what a
line can do: `SGLANG_SEER_WRITE_TABLE=1 ./run test tests/patches/test_older_lines.py`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sglang_seer.patches import lines
from tests.cpu_platform.cpu_lines import EnvironmentUnavailable, line_python, plugin_folder
from tests.cpu_platform.engines import Answers, Batch, EngineHost, tokens
from tests.reasoner import REASONER, reasoner_prompts
from tests.steady_clock import STEADY_CLOCK

ROOT = Path(__file__).resolve().parents[2]
SEEN = Path(__file__).with_name("seen_lines.json")
# Version of a line -> its environment's name; None is this one.
ENVIRONMENTS = {"0.5.23": None, "0.5.15.post1": "0.5.15", "0.5.12": "0.5.12"}
LOGPROB_TOLERANCE = 1e-5
GROUPS, SAMPLES = 2, 4

PROMPTS = reasoner_prompts()[:: 24 // GROUPS]


def rollout(limit: int = 120, more: dict[str, Any] | None = None, **sampling: Any) -> Batch:
    """Each sample is a request with its own seed."""
    return Batch(
        [prompt for prompt in PROMPTS for _ in range(SAMPLES)],
        [
            {"temperature": 1.0, "max_new_tokens": limit, "sampling_seed": 1000 * group + sample, **sampling}
            for group in range(GROUPS)
            for sample in range(SAMPLES)
        ],
        more or {},
    )


# How a response ends. Where "taught" has shown how the same seeds go on behind the end of a text, drafts do, too.
ENDS: list[dict[str, Any]] = [
    # The text ends at 67 or about 110 tokens, and a run may reach the limit from before its end.
    *({"max_new_tokens": limit} for limit in (68, 71, 76, 112, 118)),
    # One token ends it, others behind it are in the same run.
    {"stop_token_ids": [292, 294, 288], "max_new_tokens": 40},
    # Of several the first in the text, not in the list.
    {"stop": ["tens", "ones", "+"]},
    {"stop": ["makes", "="], "stop_regex": ["[0-9]: "]},
    {"stop_regex": ["tens", "o[mn]e", "[0-9]="], "max_new_tokens": 36},
    # Nothing behind the end of a text counts.
    {"stop": ["Plan: 9", "Plan: 8"]},
    {"stop": ["Plan: "], "stop_token_ids": [263, 264, 265]},
]


def one_of_each_group(batch: Batch, changes: Sequence[dict[str, Any]]) -> Batch:
    """The same sample of each group with each of these changes of its parameters."""
    places = range(1, len(batch.input_ids), SAMPLES)
    return Batch(
        [batch.input_ids[place] for _ in changes for place in places],
        [{**batch.sampling_params[place], **change} for change in changes for place in places],
        batch.more,
    )


ROLLOUTS = {
    "seeded": rollout(),
    "log-probabilities": rollout(more={"return_logprob": True, "top_logprobs_num": 3}, temperature=0.7),
    "stop strings": rollout(stop=["Then", "makes"]),
    "taught": one_of_each_group(rollout(ignore_eos=True), [{}]),
    "ends": one_of_each_group(rollout(more={"return_logprob": True}), ENDS),
    "top-p": rollout(top_p=0.9),
    "greedy": rollout(temperature=0.0),
}
ENGINE = {
    "model_path": str(REASONER / "model"),
    "enable_deterministic_inference": True,
    "dtype": "float32",
    # Fewer than there are samples, in a pool that they fill: requests wait, yield and are retracted.
    "max_running_requests": 5,
    "max_total_tokens": 600,
    "schedule_conservativeness": 0.1,
    "log_level": "warning",
}
# SGLang then finds no plugin at all; the platform is active by now.
WITHOUT_PLUGINS = "import os; os.environ['SGLANG_PLUGINS'] = 'none'"
# What the launcher does with a command line.
COMMAND_LINE = f"""
import argparse
from sglang.srt.plugins import load_plugins
from sglang.srt.server_args import ServerArgs
load_plugins()
parser = argparse.ArgumentParser()
ServerArgs.add_cli_args(parser)
words = ["--model-path", {str(REASONER / "model")!r}, "--scheduler-policy", "seer", "--seer-config"]
made = ServerArgs.from_cli_args(parser.parse_args([*words, '{{"draft_nodes": 4}}']))
assert (made.schedule_policy, made.speculative_algorithm, made.speculative_num_draft_tokens) == ("seer", "SEER", 5)
made = ServerArgs.from_cli_args(parser.parse_args(["--model-path", made.model_path, "--schedule-policy", "lpm"]))
assert (made.schedule_policy, made.speculative_algorithm) == ("lpm", None)
"""
# Runs between a record that is built early, and an engine with it. With whatever else was asked for: what Seer makes of
# such a record is what it makes of one that it builds itself.
TAKE_OVER = f"""
import os
from sglang.srt.entrypoints.engine import Engine
from sglang.srt.plugins import load_plugins
from sglang.srt.server_args import ServerArgs
from sglang.srt.speculative.spec_registry import get_spec
assert get_spec("SEER") is None
model = {{"model_path": {str(REASONER / "model")!r}, "random_seed": 3}}
asked = [
    {{}},
    {{"max_running_requests": 7, "speculative_num_draft_tokens": 9}},
    {{"enable_mixed_chunk": True, "max_running_requests": 100, "disable_overlap_schedule": True}},
]
early = [ServerArgs(**model, **more, speculative_algorithm="NGRAM") for more in asked]
refused = ServerArgs(**model, speculative_algorithm="NGRAM", enable_return_hidden_states=True)
os.environ["SGLANG_SEER"] = "on"
os.environ["SGLANG_SEER_CONFIG"] = '{{"overflow_risk": 1000, "chunk_tokens": 32, "draft_nodes": 5}}'
load_plugins()
for record, more in zip(early, asked):
    record.check_server_args()
    theirs, ours = vars(record), vars(Engine.server_args_class(**model, **more))
    # What was read of the model's folder, which is the same.
    names = (theirs.keys() | ours.keys()) - {{"model_config"}}
    differ = [name for name in names if theirs.get(name) != ours.get(name)]
    assert not differ, (more, [(name, theirs.get(name), ours.get(name)) for name in differ])
assert ours["_seer_config"].draft_nodes == 5 and ours["speculative_num_draft_tokens"] == 6
try:
    refused.check_server_args()
except ValueError as error:
    assert "returned hidden states" in str(error), error
else:
    raise AssertionError("wanted a refusal")
"""
# Draws a node's token with the noise of the next position.
WRONG_NOISE = """
import sglang_seer.verify.walk as walk
draw = walk.draw
walk.draw = lambda logits, rows, positions: draw(logits, rows, positions + 1)
"""
# SGLang judges accepted runs as a whole.
WHOLE_RUNS = """
import sglang_seer.engine.hooks as hooks
hooks.end_inside_run = lambda check, request, run_tokens: check(request, run_tokens)
"""
CARELESS = {"overflow_risk": 1000, "chunk_tokens": 32}


# What slime 0.3.1 asks of every engine.
BY_SLIME = {"enable_draft_weights_cpu_backup": True, "enable_metrics": True, "skip_server_warmup": True}


@dataclass(frozen=True)
class Mode:
    """seer: options, None for stock. early: server arguments are built before SGLang loads plugins."""

    seer: dict[str, Any] | None
    arguments: dict[str, Any]
    before: str = ""
    early: bool = False


MODES = {
    "stock": Mode(None, {}, WITHOUT_PLUGINS),
    "scheduling": Mode({"speculation": False, **CARELESS}, {}),
    "drafts": Mode(CARELESS, {}, COMMAND_LINE + STEADY_CLOCK),
    "drafts, no overlap": Mode(CARELESS, {"disable_overlap_schedule": True}),
    "token bus": Mode({"bus": "ipc://FOLDER/bus"}, {}),
    "wrong noise": Mode({}, {}, STEADY_CLOCK + WRONG_NOISE),
    "whole runs": Mode({}, {}, STEADY_CLOCK + WHOLE_RUNS),
    "observe": Mode(None, {}, "import os; os.environ['SGLANG_SEER'] = 'observe'"),
    "taken over": Mode(None, {"speculative_algorithm": "NGRAM", **BY_SLIME}, TAKE_OVER + STEADY_CLOCK, early=True),
}
COLUMNS = ("scheduling", "drafts", "drafts, no overlap", "token bus")


@dataclass(frozen=True)
class Run:
    """answers: by rollout; empty if the engine was refused. status: Seer's own. refused: why, or nothing."""

    answers: dict[str, list[dict[str, Any]]]
    status: dict[str, Any] | None
    refused: str = ""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], Run]]:
    """`run(line, mode)`; each engine runs once."""
    environment = environment_with_seer(tmp_path_factory.mktemp("plugin"))
    runs: dict[tuple[str, str], Run] = {}
    with ExitStack() as stack:
        hosts: dict[str, EngineHost] = {}

        def once(line: str, mode: str) -> Run:
            if line not in hosts:
                name = ENVIRONMENTS[line]
                try:
                    python = sys.executable if name is None else line_python(name)
                except EnvironmentUnavailable as error:
                    pytest.skip(f"no environment with SGLang {line}: {error}")
                folder = tmp_path_factory.mktemp("line")
                hosts[line] = stack.enter_context(EngineHost(python, folder, environment))
            if (line, mode) not in runs:
                runs[line, mode] = run_engine(hosts[line], MODES[mode], tmp_path_factory)
            return runs[line, mode]

        yield once


def environment_with_seer(folder: Path, *before: str) -> dict[str, str]:
    """Of an engine on the CPU platform where Seer is not installed. before: paths that come first."""
    paths = [*before, str(plugin_folder(folder)), str(ROOT), str(ROOT / "cpu_platform")]
    return {"SGLANG_PLATFORM": "seer_cpu", "PYTHONPATH": os.pathsep.join(paths)}


def run_engine(
    host: EngineHost, mode: Mode, folders: pytest.TempPathFactory, rollouts: Mapping[str, Batch] = ROLLOUTS
) -> Run:
    arguments = {**ENGINE, **mode.arguments}
    if mode.seer is not None:
        options = json.dumps(mode.seer).replace("FOLDER", str(folders.mktemp("bus")))
        arguments |= {"schedule_policy": "seer", "seer_config": options}
    try:
        answers: Answers = host.run(arguments, list(rollouts.values()), mutant=mode.before, early=mode.early)
    except AssertionError as error:
        reasons = [line for line in str(error).splitlines() if "wanted" in line or "refuses to start" in line]
        if not reasons:
            raise
        return Run({}, None, reasons[-1])
    return Run(dict(zip(rollouts, answers, strict=True)), host.last_status())


def differences(seen: Run, wanted: Run) -> list[str]:
    """Rollouts whose samples are not those wanted, and in what."""
    found = []
    for name, theirs in wanted.answers.items():
        ours = seen.answers[name]
        if tokens(ours) != tokens(theirs):
            found.append(f"{name}: tokens")
            # Shown where a test fails: which samples, and the whole of both.
            for number, (mine, stocks) in enumerate(zip(tokens(ours), tokens(theirs), strict=True)):
                if mine != stocks:
                    print(f"{name}, sample {number}: saw {mine}, wanted {stocks}")
            continue
        for key in ("text", "finish_reason", "output_token_logprobs", "output_top_logprobs"):
            pairs = [(part(mine, key), part(stocks, key)) for mine, stocks in zip(ours, theirs, strict=True)]
            if not all(mine == pytest.approx(stocks, abs=LOGPROB_TOLERANCE) for mine, stocks in pairs):
                found.append(f"{name}: {key}")
    return found


def part(answer: dict[str, Any], key: str) -> Any:
    """A part of an answer, numbers in one list; the names of tokens are left out, as their numbers are there."""
    value = answer[key] if key in answer else answer["meta_info"].get(key)
    if key == "output_top_logprobs" and value is not None:
        value = [entry for entries in value for entry in entries]
    if key.endswith("logprobs") and value is not None:
        return [number for entry in value for number in entry[:2]]
    return value


def outcome(run: Callable[[str, str], Run], line: str, mode: str) -> str:
    """What the README's table says of a mode: exact, refused, or in what it differs."""
    seen = run(line, mode)
    if seen.refused:
        return "refused"
    return ", ".join(differences(seen, run(line, "stock"))) or "exact"


@pytest.mark.parametrize("mode", COLUMNS)
@pytest.mark.parametrize("line", ENVIRONMENTS)
def test_samples_are_those_of_the_line(run: Callable[[str, str], Run], line: str, mode: str) -> None:
    assert outcome(run, line, mode) in ("exact", "refused")


@pytest.mark.parametrize("line", ENVIRONMENTS)
def test_what_was_exact_was_on(run: Callable[[str, str], Run], line: str) -> None:
    """Nothing is shown by equal samples of an engine that schedules, drafts and yields nothing."""
    scheduling, drafts = run(line, "scheduling").status, run(line, "drafts").status
    assert run(line, "stock").status is None
    assert scheduling is not None and scheduling["parts"] == ["scheduling"]
    assert drafts is not None and drafts["parts"] == ["scheduling", "speculation"]
    for status in (scheduling, drafts):
        assert status["sglang_version"] == line
        for counter in ("ordered", "finished", "yields", "yields_resumed"):
            assert status["counters"].get(counter, 0) > 0, counter
    assert drafts["counters"]["drafted"] > 0 and drafts["calls"]["verify"] > 0
    # Lengths are learnt without what a run had behind a response's end.
    answers = [answer for batch in run(line, "drafts").answers.values() for answer in batch]
    assert drafts["counters"]["estimated_tokens"] == sum(len(answer["output_ids"]) for answer in answers)


@pytest.mark.parametrize("line", ENVIRONMENTS)
def test_observe_watches_a_stock_engine(run: Callable[[str, str], Run], line: str) -> None:
    watched = run(line, "observe")
    assert differences(watched, run(line, "stock")) == []
    status = watched.status
    assert status is not None and (status["mode"], status["parts"]) == ("observe", [])
    assert status["reasons"] == []
    answers = [answer for batch in watched.answers.values() for answer in batch]
    assert status["counters"]["estimated_tokens"] == sum(len(answer["output_ids"]) for answer in answers)
    assert status["counters"]["finished"] == len(answers)
    assert status["observed"]["responses"] > 0 and status["observed"]["timed_steps"] > 0
    assert status["observed"]["would_refuse"] == []


def test_ngram_is_taken_over_where_arguments_are_built_before_plugins_are_loaded(
    run: Callable[[str, str], Run],
) -> None:
    """As slime does it: the samples are those of the line, of drafts that were verified."""
    taken = run("0.5.15.post1", "taken over")
    assert differences(taken, run("0.5.15.post1", "stock")) == []
    status = taken.status
    assert status is not None and status["parts"] == ["scheduling", "speculation"]
    assert status["counters"]["drafted"] > 0 and status["counters"]["yields_resumed"] > 0
    answers = [answer for batch in taken.answers.values() for answer in batch]
    # A token a step is what plain decoding gives; the first one comes from prefill.
    steps = sum(answer["meta_info"]["spec_verify_ct"] for answer in answers)
    assert sum(len(answer["output_ids"]) - 1 for answer in answers) > steps


def test_a_refusal_says_what_to_do(run: Callable[[str, str], Run]) -> None:
    assert '{"speculation": false}' in run("0.5.12", "drafts, no overlap").refused
    for line in ("0.5.12", "0.5.15.post1"):
        assert "wanted inproc:" in run(line, "token bus").refused


@pytest.mark.parametrize("line", ["0.5.15.post1", "0.5.12"])
def test_a_verifier_with_the_wrong_noise_is_caught(run: Callable[[str, str], Run], line: str) -> None:
    """Negative control: seeded samples differ, greedy ones have no noise."""
    found = differences(run(line, "wrong noise"), run(line, "stock"))
    assert {"seeded: tokens", "top-p: tokens"} <= set(found)
    assert not [what for what in found if what.startswith("greedy")]


@pytest.mark.parametrize("line", ENVIRONMENTS)
def test_runs_that_sglang_judges_as_a_whole_end_elsewhere(run: Callable[[str, str], Run], line: str) -> None:
    """Negative control; 0.5.12 looks for stop strings only at a run's end."""
    found = set(differences(run(line, "whole runs"), run(line, "stock")))
    assert {"ends: tokens"} <= found <= {"ends: tokens", "stop strings: tokens"}


def table(seen: dict[str, dict[str, str]]) -> str:
    """The table in README.md."""
    rows = [f"| {line} | " + " | ".join(said[column] for column in COLUMNS) + " |" for line, said in seen.items()]
    head = ["| SGLang | " + " | ".join(COLUMNS) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
    return "\n".join([*head, *rows])


def test_every_supported_line_is_in_the_table() -> None:
    assert list(json.loads(SEEN.read_text())) == list(lines.SUPPORTED) == list(ENVIRONMENTS)


def test_the_table_says_what_was_seen(run: Callable[[str, str], Run]) -> None:
    seen = {line: {mode: outcome(run, line, mode) for mode in COLUMNS} for line in ENVIRONMENTS}
    if os.environ.get("SGLANG_SEER_WRITE_TABLE") == "1":
        SEEN.write_text(json.dumps(seen, indent=2) + "\n")
    assert json.loads(SEEN.read_text()) == seen


def test_the_readme_has_the_table() -> None:
    assert table(json.loads(SEEN.read_text())) in (ROOT / "README.md").read_text()
