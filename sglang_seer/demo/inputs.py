"""What the user brings: the model, its tokenizer, the prompts. Everything wrong with them is a ValueError here."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "tiny_reasoner"
PROMPTS_TIMEOUT_S = 60.0


class Prompt(msgspec.Struct, frozen=True):
    """One line of a prompts file. answer: what `reward` compares a response with; None leaves the reward out."""

    prompt: str
    answer: str | int | None = None


class Tokenizer(Protocol):
    """What the demo needs of a Hugging Face tokenizer."""

    chat_template: str | None

    def encode(self, text: str, **options: Any) -> list[int]: ...
    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any: ...
    def decode(self, token_ids: list[int], **options: Any) -> str: ...


def parse_prompts(text: str, source: str) -> list[Prompt]:
    """JSONL to prompts; empty lines are skipped. Raises ValueError that names the source and the line."""
    prompts = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            prompts.append(msgspec.json.decode(line, type=Prompt))
        except msgspec.MsgspecError as error:
            raise ValueError(
                f"{source}, line {number}: {error}; wanted an object with the keys 'prompt' (text) and, "
                f"for a reward, 'answer'; saw {line[:80]!r}"
            ) from error
    if not prompts:
        raise ValueError(f"{source}: wanted at least one prompt, saw none")
    return prompts


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a JSONL file."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"--prompts {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompts {path}: wanted UTF-8 text: {error}") from error
    return parse_prompts(text, f"--prompts {path}")


def example_prompts(count: int, seed: int) -> list[Prompt]:
    """Problems of the example, drawn by its own script."""
    command = [sys.executable, str(_example_file("prompts.py")), "--seed", str(seed), "--n", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROMPTS_TIMEOUT_S)
    if done.returncode != 0:
        raise ValueError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return parse_prompts(done.stdout, "examples/tiny_reasoner/prompts.py")


def example_reward() -> Callable[[str, str], float]:
    """The example's `reward(response_text, answer)`, loaded from its file: the example is no package."""
    path = _example_file("reward.py")
    spec = importlib.util.spec_from_file_location("tiny_reasoner_reward", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reward: Callable[[str, str], float] = module.reward
    return reward


def _example_file(name: str) -> Path:
    path = EXAMPLE / name
    if not path.is_file():
        raise ValueError(f"{path} is not there: the demo's own prompts need a checkout; elsewhere use --prompts")
    return path


def context_length(model: Path) -> int:
    """Most tokens of prompt and response, from the model's config.json; ValueError where it cannot be read."""
    file = model / "config.json"
    try:
        length = json.loads(file.read_text(encoding="utf-8"))["max_position_embeddings"]
    except OSError as error:
        raise ValueError(f"--model {model}: {file}: {error.strerror}; wanted a folder with a model") from error
    except (ValueError, KeyError) as error:
        raise ValueError(f"--model {model}: {file}: wanted JSON with max_position_embeddings: {error}") from error
    return int(length)


def load_tokenizer(model: Path) -> Tokenizer:
    """The tokenizer in the model's folder; nothing is fetched."""
    # It takes seconds to import: bad arguments should be told before.
    from transformers import AutoTokenizer

    try:
        return cast(Tokenizer, AutoTokenizer.from_pretrained(str(model), local_files_only=True))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"--model {model}: no tokenizer could be read there: {error}") from error


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Token ids of one user turn, chat template applied where the model has one."""
    if tokenizer.chat_template is None:
        return tokenizer.encode(prompt)
    turn = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    # The template has written the special tokens already.
    return tokenizer.encode(text, add_special_tokens=False)
