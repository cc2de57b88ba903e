"""The GRPO example: the update against plain formulas, and two steps of training on real engines, stock and Seer."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_seer.demo.plan import STOCK, Side
from sglang_seer.rollout.client import RolloutError
from sglang_seer.rollout.records import Generation

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FOLDERS = (EXAMPLES / "grpo_tiny", EXAMPLES / "tiny_reasoner")
NAMES = ("run", "training", "update", "steps", "grading", "curves", "model_files", "vocabulary", "task")
SIZES = ["--num-prompts", "3", "--n", "4", "--max-new-tokens", "300"]
SMALL = [*SIZES, "--max-running-requests", "4", "--kv-tokens", "2048"]
TRAINING_TIMEOUT_S = 500


@pytest.fixture(scope="module")
def tiny() -> Iterator[SimpleNamespace]:
    """The example's modules. They import each other by bare names, as scripts do; path entries and names go again."""
    threads, path = torch.get_num_threads(), list(sys.path)
    kept = {name: sys.modules.pop(name) for name in NAMES if name in sys.modules}
    sys.path[:0] = map(str, FOLDERS)
    torch.set_num_threads(1)
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in NAMES})
    finally:
        torch.set_num_threads(threads)
        sys.path[:] = path
        for name in NAMES:
            sys.modules.pop(name, None)
        sys.modules.update(kept)


@pytest.fixture
def model(tiny: SimpleNamespace) -> Any:
    return tiny.model_files.load(tiny.model_files.DEFAULT_FOLDER)[0]


def samples(tiny: SimpleNamespace) -> list[Any]:
    """Two groups with mixed rewards and one without; responses of many lengths."""
    rewards = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0]
    return [
        tiny.update.Rewarded(
            group=f"g{number // 3}",
            prompt_ids=[1, *range(20, 24 + number // 3), 2],
            output_ids=[(7 * number + at) % 300 + 10 for at in range(1 + 9 * number)],
            reward=1.0 if number // 3 == 1 else rewards[number],
        )
        for number in range(9)
    ]


def log_probs(model: Any, one: Any) -> torch.Tensor:
    """[response tokens], without batch or padding."""
    ids = torch.tensor([[*one.prompt_ids, *one.output_ids]])
    with torch.inference_mode():
        rows = model(input_ids=ids).logits[0, len(one.prompt_ids) - 1 : -1].log_softmax(dim=-1)
    return rows.gather(1, ids[0, len(one.prompt_ids) :, None])[:, 0]


def test_advantages_are_deviations_within_the_group(tiny: SimpleNamespace) -> None:
    values = tiny.update.advantages(samples(tiny))
    # Of three rewards, one 1.0: mean 1/3, standard deviation sqrt(2)/3.
    assert values[:3] == pytest.approx([2**0.5, -(0.5**0.5), -(0.5**0.5)], abs=1e-5)
    assert values[3:6] == [0.0, 0.0, 0.0]
    assert values[6:] == pytest.approx([0.5**0.5, 0.5**0.5, -(2**0.5)], abs=1e-5)


@pytest.mark.parametrize("pass_tokens", [8192, 100, 1])
def test_the_loss_is_the_formulas(
    tiny: SimpleNamespace, model: Any, pass_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However samples are batched and padded."""
    monkeypatch.setattr(tiny.update, "PASS_TOKENS", pass_tokens)
    batch = samples(tiny)
    terms = [
        a * log_probs(model, one).mean().item() for one, a in zip(batch, tiny.update.advantages(batch), strict=True)
    ]
    optimizer = tiny.update.new_optimizer(model, 1e-3)
    loss = tiny.update.update(model, optimizer, batch, pad_id=0)
    assert loss == pytest.approx(-sum(terms) / len(batch), abs=1e-5)
    assert abs(loss) > 0.01


def test_an_update_makes_good_samples_likelier(tiny: SimpleNamespace, model: Any) -> None:
    batch = samples(tiny)
    before = [log_probs(model, one).mean().item() for one in batch]
    tiny.update.update(model, tiny.update.new_optimizer(model, 1e-4), batch, pad_id=0)
    grown = [log_probs(model, one).mean().item() - old for one, old in zip(batch, before, strict=True)]
    gain = sum(a * more for a, more in zip(tiny.update.advantages(batch), grown, strict=True))
    assert gain > 0.01


def test_equal_rewards_change_nothing(tiny: SimpleNamespace, model: Any) -> None:
    before = tiny.training.weights_digest(model)
    equal = samples(tiny)[3:6]
    assert tiny.update.update(model, tiny.update.new_optimizer(model, 1e-3), equal, pad_id=0) == 0.0
    assert tiny.training.weights_digest(model) == before


def test_an_update_repeats_bit_by_bit(tiny: SimpleNamespace) -> None:
    ends = []
    for order in (1, 1, -1):
        model, _ = tiny.model_files.load(tiny.model_files.DEFAULT_FOLDER)
        tiny.update.update(model, tiny.update.new_optimizer(model, 1e-3), samples(tiny)[::order][:6], pad_id=0)
        ends.append(tiny.training.weights_digest(model))
    assert ends[0] == ends[1] != ends[2]


@pytest.mark.parametrize(
    ("response", "value"),
    [
        ("Plan: from #3 to #1.\nTotal 4.\nAnswer: 4", 1.0),
        ("Plan: from #3 to #1.\nTotal 4.\nAnswer: 5", 0.0),
        ("Plan: from #1 to #3.\nTotal 4.\nAnswer: 4", 0.0),
        ("Plan: from #1 to #3.\nVerify: from #3 to #1.\nAnswer: 4", 0.0),
        ("Answer: 4", 0.0),
    ],
)
def test_reward(tiny: SimpleNamespace, response: str, value: float) -> None:
    assert tiny.grading.reward(response, "4") == value


def step(tiny: SimpleNamespace, **changes: Any) -> Any:
    fields = {"samples": ["a"], "rewards": [1.0, 0.0], "loss": 0.5, "weights": "w", "output_tokens": 12, "passes": 4}
    return tiny.steps.Step(**{**fields, "rollout_s": 2.0, "weights_s": 1.0, "update_s": 3.0, **changes})


def test_figures(tiny: SimpleNamespace) -> None:
    stock = [step(tiny, rollout_s=5.0) for _ in range(6)]
    seer = [step(tiny, rewards=[number / 10]) for number in range(6)]
    numbers = tiny.steps.figures({"stock": stock, "seer": seer})
    assert (numbers["steps"], numbers["steps_identical"], numbers["rollout_ratio"]) == (6, 0, 2.5)
    assert (numbers["reward_first"], numbers["reward_last"]) == (0.0, 0.5)
    assert (numbers["step_ratio"], numbers["acceptance_length"]) == (1.5, 3.0)
    assert tiny.steps.figures({"seer": seer})["rollout_ratio"] is None


@pytest.mark.parametrize(
    "changes", [{"samples": ["b"]}, {"rewards": [0.0, 1.0]}, {"loss": 0.5 + 2**-53}, {"weights": "v"}]
)
def test_a_step_that_differs_is_seen(tiny: SimpleNamespace, changes: dict[str, Any]) -> None:
    same = [step(tiny), step(tiny, rollout_s=9.0, passes=1)]
    assert tiny.steps.steps_identical([step(tiny), step(tiny)], same) == 2
    assert tiny.steps.steps_identical([step(tiny), step(tiny)], [step(tiny), step(tiny, **changes)]) == 1


def test_samples_of_other_weights_are_refused(tiny: SimpleNamespace) -> None:
    def sample(version: str | None) -> Generation:
        return Generation(
            group="g3", sample=1, output_ids=[3], finish_reason="stop", prompt_tokens=1, submitted_s=0.0, first_s=None,
            finished_s=1.0, retractions=0, verify_steps=0, weight_version=version,
        )  # fmt: skip

    tiny.training.check_versions([sample("step-1")], "step-1")
    for version in ("step-0", None, "step-0 then step-1"):
        with pytest.raises(RolloutError, match="g3 sample 1: wanted weights 'step-1', saw"):
            tiny.training.check_versions([sample("step-1"), sample(version)], "step-1")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--steps", "0"], "positive whole number"),
        (["--learning-rate", "2"], "above 0 and below 1"),
        (["--unknown"], "unrecognized"),
    ],
)
def test_arguments_that_make_no_sense_end_in_2(
    tiny: SimpleNamespace, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        tiny.run.main(arguments)
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err


def test_a_file_in_a_missing_folder_is_refused_before_anything_runs(
    tiny: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "missing" / "kept.json"
    assert tiny.run.main(["--json", str(target)]) == 2
    assert f"grpo_tiny: {target}" in capsys.readouterr().err


@pytest.mark.timeout(TRAINING_TIMEOUT_S)
def test_both_sides_train_the_same(tiny: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real engines and real updates; chunks so short that samples are cut."""
    kept, picture = tmp_path / "kept.json", tmp_path / "curves.png"
    files = ["--json", str(kept), "--picture", str(picture)]
    assert tiny.run.main([*SMALL, "--compare", "--steps", "2", "--chunk-tokens", "64", *files]) == 0
    assert "steps with the same samples, rewards, loss and weights: 2 of 2" in capsys.readouterr().out
    assert picture.stat().st_size > 10_000
    content = json.loads(kept.read_text())
    assert (content["steps"], content["steps_identical"]) == (2, 2)
    assert content["rollout_ratio"] > 0 and 0 <= content["reward_first"] <= 1 and 0 <= content["reward_last"] <= 1
    stock, seer = ([tiny.steps.Step(**one) for one in content["sides"][side]] for side in ("stock", "seer"))
    # It trained: rewards differed, the loss is one of real samples, and each step has weights of its own.
    assert all(len(one.samples) == 12 and len(set(one.samples)) > 6 for one in stock)
    assert any(0 < one.reward < 1 and one.loss != 0 for one in stock)
    shipped, _ = tiny.model_files.load(tiny.model_files.DEFAULT_FOLDER)
    assert tiny.training.weights_digest(shipped) != stock[-1].weights
    # Stock decodes token by token, Seer verifies drafts.
    assert all(one.passes == one.output_tokens for one in stock)
    assert sum(one.passes for one in seer) < sum(one.output_tokens for one in seer)


@pytest.mark.timeout(TRAINING_TIMEOUT_S)
def test_a_step_that_differs_ends_in_1(
    tiny: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Negative control: the other side's model is changed a little, so its samples and its training must differ."""
    changed = Side(
        label="seer",
        flags=("--json-model-override-args", '{"rms_norm_eps": 0.1}'),
        environment=dict(STOCK.environment),
    )
    kept = tmp_path / "kept.json"
    arguments = [*SMALL, "--compare", "--steps", "1", "--engines", "1", "--json", str(kept)]
    assert tiny.run.main([*arguments, "--picture", str(tmp_path / "curves.png")], seer=changed) == 1
    assert "grpo_tiny: 1 steps differ" in capsys.readouterr().err
    content = json.loads(kept.read_text())
    assert (content["steps"], content["steps_identical"]) == (1, 0)
    stock, other = (content["sides"][side][0] for side in ("stock", "seer"))
    assert stock["samples"] != other["samples"] and stock["weights"] != other["weights"]
