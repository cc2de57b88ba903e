"""A Qwen3 checkpoint of a few hundred kilobytes with random weights."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

VOCAB_SIZE = 512
_HIDDEN, _LAYERS, _HEADS, _KV_HEADS, _HEAD_DIM, _MLP = 64, 2, 4, 2, 32, 128


def write_tiny_qwen3(folder: Path, *, seed: int = 0, scale: float = 0.35) -> Path:
    """Write the checkpoint into ``folder`` and return it.

    ``scale`` is the standard deviation of every matrix: large enough that greedy
    output varies with its context instead of settling on one token.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, cols: int) -> torch.Tensor:
        return torch.randn(rows, cols, generator=generator) * scale

    weights = {
        "model.embed_tokens.weight": matrix(VOCAB_SIZE, _HIDDEN),
        "model.norm.weight": torch.ones(_HIDDEN),
        "lm_head.weight": matrix(VOCAB_SIZE, _HIDDEN),
    }
    for index in range(_LAYERS):
        prefix = f"model.layers.{index}."
        weights |= {
            prefix + "self_attn.q_proj.weight": matrix(_HEADS * _HEAD_DIM, _HIDDEN),
            prefix + "self_attn.k_proj.weight": matrix(_KV_HEADS * _HEAD_DIM, _HIDDEN),
            prefix + "self_attn.v_proj.weight": matrix(_KV_HEADS * _HEAD_DIM, _HIDDEN),
            prefix + "self_attn.o_proj.weight": matrix(_HIDDEN, _HEADS * _HEAD_DIM),
            prefix + "self_attn.q_norm.weight": torch.ones(_HEAD_DIM),
            prefix + "self_attn.k_norm.weight": torch.ones(_HEAD_DIM),
            prefix + "mlp.gate_proj.weight": matrix(_MLP, _HIDDEN),
            prefix + "mlp.up_proj.weight": matrix(_MLP, _HIDDEN),
            prefix + "mlp.down_proj.weight": matrix(_HIDDEN, _MLP),
            prefix + "input_layernorm.weight": torch.ones(_HIDDEN),
            prefix + "post_attention_layernorm.weight": torch.ones(_HIDDEN),
        }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "bos_token_id": 0,
        "eos_token_id": VOCAB_SIZE - 1,
        "head_dim": _HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": _HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": _MLP,
        "max_position_embeddings": 4096,
        "num_attention_heads": _HEADS,
        "num_hidden_layers": _LAYERS,
        "num_key_value_heads": _KV_HEADS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "vocab_size": VOCAB_SIZE,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return folder
