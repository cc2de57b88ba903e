"""The demo's model and its task: what the demo and the end-to-end tests take for granted, checked in seconds."""

import importlib
import json
import math
import random
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "tiny_reasoner"
MODULES = ("task", "vocabulary", "prompts", "reward", "sibling_drafts", "model_files", "sampling", "evaluate", "train")
EQUATION = re.compile(r"(\d+(?:[+*]\d+)+)=(\d+)")
MAX_PARAMETERS = 4_000_000
MAX_WEIGHTS_BYTES = 8 * 2**20

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tiny():
    """The example's modules. They import each other by bare names, as scripts do; path entry and names go again."""
    sys.path.insert(0, str(FOLDER))
    kept = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    finally:
        sys.path.remove(str(FOLDER))
        for name in MODULES:
            sys.modules.pop(name, None)
        sys.modules.update(kept)


@pytest.fixture(scope="module")
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(FOLDER / "model")


@pytest.fixture(scope="module")
def loaded(tiny):
    """Model and tokenizer. One thread: for so small a model the threads' waiting costs more than it gives."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tiny.model_files.load(FOLDER / "model")
    torch.set_num_threads(threads)


def solutions(tiny, *, count: int):
    rng = random.Random(5)
    for _ in range(count):
        problem = tiny.task.draw_problem(rng, level=rng.choice(tiny.task.LEVELS), held_out=False)
        yield problem, tiny.task.write_solution(problem, rng)


def test_training_solutions_are_right(tiny):
    for problem, text in solutions(tiny, count=300):
        assert tiny.reward.reward(text, problem.answer) == 1.0
        for left, right in EQUATION.findall(re.sub(r"#\d+=", "", text)):
            # Sums of columns and one-digit products never mix.
            numbers = [int(n) for n in re.split(r"[+*]", left)]
            assert (math.prod(numbers) if "*" in left else sum(numbers)) == int(right), text


def test_siblings_are_alike_but_not_equal(tiny):
    rng = random.Random(1)
    problem = tiny.task.draw_problem(rng, level="mixed", held_out=True, num_terms=10)
    texts = [tiny.task.write_solution(problem, rng) for _ in range(8)]
    assert len(set(texts)) == 8
    ids = [tiny.vocabulary.build().encode(text).ids for text in texts]
    assert tiny.sibling_drafts.mean_acceptance_length([ids], draft_tokens=8) > 3.0


def test_tokenizer_round_trip(tiny, tokenizer):
    texts = [t for problem, text in solutions(tiny, count=50) for t in (problem.prompt, text)]
    for text in [*texts, "Any other text: ~é 漢 \t\n\n  #1234 ünïcode\r\n"]:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_tokens_are_meaningful(tokenizer):
    assert tokenizer.tokenize("Now #12=34, tens") == ["Now", "Ġ#12=", "3", "4", ",", "Ġtens"]
    assert len(tokenizer) <= 512 and len(tokenizer) % 32 == 0


def test_shipped_tokenizer_is_the_built_one(tiny, tmp_path):
    tiny.vocabulary.save(tiny.vocabulary.build(), tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert json.loads((tmp_path / name).read_text()) == json.loads((FOLDER / "model" / name).read_text())


def test_chat_template(tiny, tokenizer):
    turn = [{"role": "user", "content": "Add up #1=3, #2=4."}]
    text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert text == "<|user|>Add up #1=3, #2=4.<|end|><|assistant|>"
    assert text == tiny.vocabulary.render(turn[0]["content"])
    assert tokenizer.eos_token_id == tiny.vocabulary.END_ID
    assert tokenizer.pad_token_id == tiny.vocabulary.PAD_ID


def test_prompts_follow_their_seed(tiny):
    first = list(tiny.prompts.make_prompts(seed=3, n=40))
    assert first == list(tiny.prompts.make_prompts(seed=3, n=40))
    assert first[:10] == list(tiny.prompts.make_prompts(seed=3, n=10))
    assert first != list(tiny.prompts.make_prompts(seed=4, n=40))
    assert len({row["prompt"] for row in first}) == 40


def test_prompts_are_disjoint_from_training(tiny):
    def terms(prompt: str) -> str:
        return prompt[prompt.index("#") :]

    trained = {terms(problem.prompt) for problem, _ in solutions(tiny, count=2000)}
    held_out = {
        terms(row["prompt"])
        for level in tiny.task.LEVELS
        for row in tiny.prompts.make_prompts(seed=0, n=500, level=level)
    }
    assert not trained & held_out


def test_prompts_script(tiny, tmp_path, capsys):
    out = tmp_path / "p.jsonl"
    tiny.prompts.main(["--seed", "1", "--n", "3", "--level", "easy", "--out", str(out)])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 3 and all(set(row) == {"prompt", "answer"} for row in rows)
    tiny.prompts.main(["--seed", "1", "--n", "3", "--level", "easy"])
    assert capsys.readouterr().out == out.read_text()


@pytest.mark.parametrize(
    "bad", [["--n", "0"], ["--n", "-1"], ["--n", "x"], ["--level", "hard"], ["--out", "/nonexistent/p.jsonl"]]
)
def test_prompts_script_refuses(tiny, bad, capsys):
    with pytest.raises(SystemExit) as stop:
        tiny.prompts.main(bad)
    assert stop.value.code == 2
    assert bad[1] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Answer: 41", 1.0),
        ("Total 9.\nAnswer:41.\n", 1.0),
        ("Answer: 4\nWait.\nAnswer: 41", 1.0),
        ("Answer: 41\nAnswer: 4", 0.0),
        ("Answer: 411", 0.0),
        ("Answer: 41.5", 0.0),
        ("Answer: 4 1", 0.0),
        ("41", 0.0),
        ("", 0.0),
    ],
)
def test_reward(tiny, text, score):
    assert tiny.reward.reward(text, 41) == tiny.reward.reward(text, "41") == score


def test_reward_refuses_a_bad_expected_answer(tiny):
    with pytest.raises(ValueError, match="saw 'x'"):
        tiny.reward.reward("Answer: 1", "x")


def test_model_is_small(loaded):
    model, tokenizer = loaded
    assert model.num_parameters() <= MAX_PARAMETERS
    assert (FOLDER / "model" / "model.safetensors").stat().st_size <= MAX_WEIGHTS_BYTES
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_icc_tells_groups_from_noise(tiny):
    """Groups that do not matter give about 0, groups that decide all give 1; without the within term both are 1."""
    import numpy as np

    noise = np.random.default_rng(0).normal(size=(400, 8))
    assert abs(tiny.evaluate.one_way_icc(noise)) < 0.05
    assert tiny.evaluate.one_way_icc(noise[:, :1].repeat(8, axis=1)) == pytest.approx(1.0)


def test_model_solves_easy_problems(tiny, loaded):
    rows = list(tiny.prompts.make_prompts(seed=77, n=16, level="easy"))
    responses = tiny.sampling.sample(*loaded, [row["prompt"] for row in rows], seed=0, max_new_tokens=600)
    right = sum(tiny.reward.reward(r.text, row["answer"]) for row, r in zip(rows, responses, strict=True))
    assert right >= 6


def test_batched_draws_are_likely_under_the_model(tiny, loaded):
    """Left padding, cache compaction and row bookkeeping: each batched response is as likely as the model says.

    A mutant that shifts positions by the padding or mixes up rows after compaction makes its own draws improbable.
    """
    import torch

    model, tokenizer = loaded
    prompts = [row["prompt"] for row in tiny.prompts.make_prompts(seed=9, n=6, level="easy")]
    responses = tiny.sampling.sample(model, tokenizer, prompts, seed=1, max_new_tokens=300)
    for prompt, response in zip(prompts, responses, strict=True):
        head = tiny.sampling.prompt_ids(tokenizer, prompt)
        ids = torch.tensor([head + response.token_ids])
        with torch.inference_mode():
            log_probs = model(input_ids=ids).logits[0, len(head) - 1 : -1].log_softmax(dim=-1)
        chosen = log_probs.gather(1, ids[0, len(head) :, None])
        assert chosen.mean() > -0.5
