"""Profiles of the paper's three models on Hopper GPUs, computed from public data sheets and model configs.

What no public page states is an assumption, named as one below: how much of the peak is reached, and how much memory a
rollout engine may take. None of it was measured or fitted to a result.
"""

from __future__ import annotations

from dataclasses import dataclass

from sglang_seer.sim.profile import Profile, StepTime

# Assumptions. Of the peak bandwidth and arithmetic that large kernels reach:
BANDWIDTH_REACHED = 0.8
ARITHMETIC_REACHED = 0.6
# Of the GPU's memory that a rollout engine beside a trainer takes for weights and KV: veRL's default
# (rollout.gpu_memory_utilization).
MEMORY_FRACTION = 0.5
# Work between two forwards on the host that overlap scheduling does not hide.
STEP_HOST_S = 0.5e-3
# One small all-reduce over NVLink inside a node.
ALL_REDUCE_S = 15e-6
# Drafting on the host for one request: bench/results/draft_cpu.json, draft_us_per_request of seer 256x15.7k/chain8.
DRAFT_REQUEST_S = 3.1e-6


@dataclass(frozen=True, slots=True)
class Gpu:
    """bandwidth and links in bytes/s (links one way), arithmetic in dense FLOP/s."""

    memory_bytes: float
    bandwidth: float
    bf16_flops: float
    fp8_flops: float
    nvlink: float
    network: float
    source: str


GPUS = {
    "H800": Gpu(
        memory_bytes=80 * 2**30,
        bandwidth=3.35e12,
        bf16_flops=989e12,
        fp8_flops=1979e12,
        nvlink=200e9,
        network=50e9,
        source="NVIDIA H100 SXM data sheet (dense); H800: NVLink 400 GB/s both ways together; 400 Gb/s NIC a GPU",
    ),
    "H200": Gpu(
        memory_bytes=141e9,
        bandwidth=4.8e12,
        bf16_flops=989e12,
        fp8_flops=1979e12,
        nvlink=450e9,
        network=50e9,
        source="NVIDIA H200 SXM data sheet (dense figures); 400 Gb/s NIC a GPU",
    ),
}


@dataclass(frozen=True, slots=True)
class Model:
    """parameters: all; routed: those of routed experts; active: used by one token. kv_values: numbers of KV a token.

    attention: multiply-adds of one query token with one KV token, all layers. weight_bytes: of one parameter.
    memory_fraction: of the GPU's memory for the engine, unless told otherwise.
    """

    parameters: float
    routed: float
    active: float
    experts: int
    experts_a_token: int
    layers: int
    hidden: int
    kv_values: int
    attention: float
    weight_bytes: int
    source: str
    memory_fraction: float = MEMORY_FRACTION


MODELS = {
    "Moonlight": Model(
        parameters=15.96e9,
        routed=26 * 64 * 3 * 2048 * 1408,
        active=2.91e9,
        experts=64,
        experts_a_token=6,
        layers=27,
        hidden=2048,
        kv_values=27 * (512 + 64),
        attention=27 * 16 * (2 * 512 + 64),
        weight_bytes=2,
        source="moonshotai/Moonlight-16B-A3B config.json: 27 layers (1 dense), hidden 2048, 64 experts, 6 a token, "
        "expert size 1408, 16 heads, MLA 512 + 64; parameters from the model card",
    ),
    "Qwen2-VL-72B": Model(
        parameters=72.7e9,
        routed=0.0,
        active=72.7e9,
        experts=1,
        experts_a_token=1,
        layers=80,
        hidden=8192,
        kv_values=80 * 2 * 8 * 128,
        attention=80 * 64 * 2 * 128,
        weight_bytes=2,
        source="Qwen/Qwen2-VL-72B-Instruct config.json: 80 layers, hidden 8192, 64 heads, 8 KV heads of 128; language "
        "part only",
    ),
    "Kimi-K2": Model(
        parameters=1026e9,
        routed=60 * 384 * 3 * 7168 * 2048,
        active=32.6e9,
        experts=384,
        experts_a_token=8,
        layers=61,
        hidden=7168,
        kv_values=61 * (512 + 64),
        attention=61 * 64 * (2 * 512 + 64),
        weight_bytes=1,
        source="moonshotai/Kimi-K2-Instruct config.json: 61 layers (1 dense), hidden 7168, 384 experts, 8 a token, "
        "expert size 2048, 64 heads, MLA 512 + 64; FP8 weights as published",
        # An assumption too: half of every GPU would not even hold the weights.
        memory_fraction=0.75,
    ),
}


def profile(model_name: str, gpu_name: str = "H800", *, memory_fraction: float | None = None) -> Profile:
    """The instance that the paper's table gives a model: one GPU, TP8, or DP32 attention with EP32 experts.

    Raises ValueError for names that are not here, or where the weights do not fit.
    """
    if model_name not in MODELS:
        raise ValueError(f"model: got {model_name!r}, wanted one of {', '.join(MODELS)}")
    if gpu_name not in GPUS:
        raise ValueError(f"gpu: got {gpu_name!r}, wanted one of {', '.join(GPUS)}")
    model, gpu = MODELS[model_name], GPUS[gpu_name]
    if memory_fraction is None:
        memory_fraction = model.memory_fraction
    if not 0.0 < memory_fraction <= 1.0:
        raise ValueError(f"memory_fraction: got {memory_fraction}, wanted above 0, at most 1")
    shape = {"Moonlight": (1, 1), "Qwen2-VL-72B": (8, 1), "Kimi-K2": (32, 32)}[model_name]
    gpus, replicas = shape
    # With data-parallel attention every GPU holds all that is no routed expert, and the requests are spread over them.
    shared_bytes = (model.parameters - model.routed) * model.weight_bytes * replicas
    routed_bytes = model.routed * model.weight_bytes
    kv_bytes = 2.0 * model.kv_values
    room = gpus * gpu.memory_bytes * memory_fraction - shared_bytes - routed_bytes
    if room < kv_bytes:
        raise ValueError(
            f"memory_fraction: got {memory_fraction}, wanted more: the weights of {model_name} take "
            f"{(shared_bytes + routed_bytes) / gpus / 1e9:.0f} GB on each {gpu_name}"
        )
    bandwidth = gpus * gpu.bandwidth * BANDWIDTH_REACHED
    flops = gpus * (gpu.fp8_flops if model.weight_bytes == 1 else gpu.bf16_flops) * ARITHMETIC_REACHED
    overhead_s, link_row_s = _exchange(model, gpu, gpus, replicas)
    step = StepTime(
        overhead_s=STEP_HOST_S + overhead_s,
        weights_s=shared_bytes / bandwidth,
        experts_s=routed_bytes / bandwidth,
        expert_share=model.experts_a_token / model.experts if model.routed else 0.0,
        row_s=2.0 * model.active / flops,
        link_row_s=link_row_s,
        context_s=kv_bytes / bandwidth,
        draft_request_s=DRAFT_REQUEST_S / replicas,
    )
    return Profile(
        name=f"{model_name} on {gpus} {gpu_name}",
        gpus=gpus,
        kv_capacity_tokens=int(room / kv_bytes),
        step=step,
        kv_bytes_per_token=kv_bytes,
        # A request's KV lies on the GPUs of one tensor-parallel group, each with its own network card.
        link_bytes_s=gpu.network * gpus / replicas,
        prefill_context_s=2.0 * model.attention / (gpus * gpu.bf16_flops * ARITHMETIC_REACHED),
        source=f"{model.source}; {gpu.source}; assumed: {BANDWIDTH_REACHED:.0%} of bandwidth, "
        f"{ARITHMETIC_REACHED:.0%} of arithmetic, {memory_fraction:.0%} of memory",
    )


def _exchange(model: Model, gpu: Gpu, gpus: int, replicas: int) -> tuple[float, float]:
    """Seconds of exchange between GPUs: of a step however small, and of each row."""
    if gpus == 1:
        return 0.0, 0.0
    if replicas == 1:
        # Two ring all-reduces a layer, of a row of 16-bit activations.
        rounds = 2 * model.layers
        return rounds * ALL_REDUCE_S, rounds * model.hidden * 2 * 2 * (gpus - 1) / gpus / gpu.nvlink
    # Experts elsewhere: 8-bit activations go to each expert of a token, 16-bit results come back. A call takes at
    # least 2 x 40 us a layer (DeepEP README, low-latency kernels on H800: 77 us and more with 128 tokens a GPU).
    row_bytes = model.layers * model.experts_a_token * model.hidden * (1 + 2)
    return model.layers * 80e-6, row_bytes / gpu.network / gpus
