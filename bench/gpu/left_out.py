"""What of SGLang a host does without that serves plain models with Triton's attention and torch's sampling."""

from __future__ import annotations

_OTHER_MODELS = "models and quantisations that the suite does not serve"
_MEDIA = "images, sound and video"
_SERVICE = "services and tools that the suite does not use"
_GRAMMARS = "grammars: engines run with --grammar-backend none"

# Projects, normalised names.
PROJECTS: dict[str, str] = {
    # FlashInfer itself stays: SGLang's sampler imports it on CUDA whatever the backends are.
    "flashinfer-cubin": "FlashInfer's kernels: engines run with --attention-backend triton --sampling-backend pytorch",
    "nvidia-cudnn-frontend": "FlashInfer's kernels: engines run with --attention-backend triton",
    "flash-attn-4": "FlashAttention: engines run with --attention-backend triton",
    "quack-kernels": "FlashAttention: engines run with --attention-backend triton",
    "nvidia-cutlass-dsl": "FlashAttention: engines run with --attention-backend triton",
    "cuda-tile": _OTHER_MODELS,
    "tilelang": _OTHER_MODELS,
    "tokenspeed-mla": _OTHER_MODELS,
    "sgl-deep-gemm": _OTHER_MODELS,
    "nvidia-mathdx": _OTHER_MODELS,
    "torchao": _OTHER_MODELS,
    "mistral-common": _OTHER_MODELS,
    "timm": _MEDIA,
    "torchcodec": _MEDIA,
    "anthropic": _SERVICE,
    "cuda-python": _SERVICE,
    "datasets": _SERVICE,
    "modelscope": _SERVICE,
    "py-spy": _SERVICE,
    "smg-grpc-servicer": _SERVICE,
    "llguidance": _GRAMMARS,
    "outlines": _GRAMMARS,
    "xgrammar": _GRAMMARS,
}
# What came with one of these, and SGLang imports itself.
BROUGHT_NONETHELESS = ("dill",)
# Files of projects that are brought: shell patterns of a wheel's members.
FILES: dict[str, dict[str, str]] = {
    "sglang-kernel": {
        "sgl_kernel/flash_ops.abi3.so": "FlashAttention 3, 1.7 GB",
        "sgl_kernel/flashmla_ops.abi3.so": "MLA models",
    },
    "sglang": {"sglang/multimodal_gen/*": "diffusion models", "sglang/test/*": "SGLang's own tests"},
}
