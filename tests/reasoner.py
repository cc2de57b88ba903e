"""Prompts of the tiny reasoning model, as token ids."""

from __future__ import annotations

import sys
from pathlib import Path

from transformers import AutoTokenizer

REASONER = Path(__file__).resolve().parents[1] / "examples" / "tiny_reasoner"


def reasoner_prompts(count: int = 24) -> list[list[int]]:
    """Input ids of some problems, chat template applied; the first is short, the last long."""
    sys.path.insert(0, str(REASONER))
    try:
        import prompts as make
    finally:
        sys.path.remove(str(REASONER))
    tokenizer = AutoTokenizer.from_pretrained(REASONER / "model")
    problems = sorted((line["prompt"] for line in make.make_prompts(seed=5, n=count)), key=len)

    def ids(text: str) -> list[int]:
        chat = [{"role": "user", "content": text}]
        rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return tokenizer(rendered, add_special_tokens=False)["input_ids"]

    return [ids(text) for text in problems]
