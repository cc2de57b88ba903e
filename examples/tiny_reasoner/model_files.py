"""The model's shape, and how it goes to disk and comes back.

The files are written by hand instead of with `save_pretrained`, because the spelling has to suit the several
transformers generations that the supported SGLang versions bring along.
"""

import json
from pathlib import Path
from typing import Any

import torch
import vocabulary
from safetensors.torch import save_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

DEFAULT_FOLDER = Path(__file__).resolve().parent / "model"


def config_fields(vocab_size: int) -> dict[str, Any]:
    """Two key-value heads let tensor parallelism of two split them; heads of 32 suit every attention kernel."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": vocab_size,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "hidden_act": "silu",
        "max_position_embeddings": vocabulary.MAX_CONTEXT_TOKENS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": vocabulary.END_ID,
        "pad_token_id": vocabulary.PAD_ID,
        "torch_dtype": "float32",
    }


def new_model(vocab_size: int) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(Qwen3Config(**config_fields(vocab_size)))


def save(model: Qwen3ForCausalLM, folder: Path) -> None:
    """Write config, generation config, tokenizer and float32 weights (the tied output head is not stored twice)."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = vocabulary.build()
    vocabulary.save(tokenizer, folder)
    generation = {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "eos_token_id": vocabulary.END_ID,
        "pad_token_id": vocabulary.PAD_ID,
    }
    for name, fields in (("config", config_fields(tokenizer.get_vocab_size())), ("generation_config", generation)):
        (folder / f"{name}.json").write_text(json.dumps(fields, indent=2) + "\n")
    tensors = {k: v.detach().contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    # Renamed into place, so that a reader never sees half a file.
    partial = folder / "model.safetensors.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    # safetensors makes it readable for its owner alone.
    partial.chmod(0o644)
    partial.rename(folder / "model.safetensors")


def load(folder: Path) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerBase]:
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)
