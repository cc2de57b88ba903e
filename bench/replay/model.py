"""Models without weights: the published shapes of Qwen3, filled with random numbers by SGLang's `dummy` loader."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

# Recorded tokens lie below it.
EOS_ID = 48_500


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Of a Qwen3 decoder, as its config.json names it."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int = 8
    head_dim: int = 128
    tie_word_embeddings: bool = False
    vocab_size: int = 151_936


# config.json of Qwen/Qwen3-0.6B, Qwen/Qwen3-8B and Qwen/Qwen3-32B; `tiny` is nobody's.
SHAPES = {
    "tiny": Shape(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        tie_word_embeddings=True,
        vocab_size=49_152,
    ),
    "0.6b": Shape(
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        tie_word_embeddings=True,
    ),
    "8b": Shape(hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32),
    "32b": Shape(hidden_size=5120, intermediate_size=25600, num_hidden_layers=64, num_attention_heads=64),
}


def write(folder: Path, shape: Shape, *, context_tokens: int, dtype: str) -> None:
    """config.json of such a model, in `folder`, which is made."""
    folder.mkdir(parents=True)
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        **asdict(shape),
        "hidden_act": "silu",
        "max_position_embeddings": context_tokens,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "attention_bias": False,
        "use_sliding_window": False,
        "eos_token_id": EOS_ID,
        "torch_dtype": dtype,
    }
    (folder / "config.json").write_text(json.dumps(config))
