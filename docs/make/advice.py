"""When to touch an option; what it means and its default stand in the code."""

ENGINE = {
    "speculation": "`false` where drafts are refused (LoRA, pipeline parallelism, ...) or another speculative algorithm shall stay",
    "draft_nodes": "less where CUDA graphs of each width take too much memory; more for small batches of texts that resemble each other much",
    "draft_depth": "hardly ever; at most as long as whole passages that siblings share",
    "starvation_limit": "lower, if requests of others than rollouts share the engine",
    "overflow_risk": "higher where the KV pool is not full although requests wait, lower where retractions are dear; 0 for SGLang's own admission",
    "chunk_tokens": "0, if nothing shall ever be computed again; smaller for short responses in a small pool",
    "draft_memory": "for prompts that come again after each update, as in several epochs over few prompts",
    "step_time_profile": "to spare a fresh engine the first steps in which it learns",
    "index_max_tokens": "with more text than that between two weight updates",
    "index_max_bytes": "where host memory is short; `index` in /server_info says what is used",
    "index_ttl_steps": "in a server that runs for days without weight updates",
    "bus": "with several engines that serve samples of the same prompts. `ipc:///FOLDER` on one host, `tcp://HOST:PORT?peer=HOST:PORT&...` between few, "
    "`redis://[:PASSWORD@]HOST:PORT/DB` (`rediss:` for TLS, `redis+cluster:`) in a cluster; `inproc:` shares nothing",
    "bus_required": "`false` where a rollout shall rather be slower than not start",
}
ROLLOUT = {
    "chunk_tokens": "smaller for short responses and small pools (more chunks to order), larger where engines share no KV",
    "stream_tokens": "smaller where engines die often; each event costs the controller time",
    "logprobs": "where the trainer wants them",
    "buffer_requests": "larger for millions of samples a rollout, as groups outside are not ordered yet",
    "undelivered_samples": "larger for a trainer that reads in bursts",
    "one_weight_version": "where a sample of two versions is of no use",
    "shared_kv": "with a store that all engines have: [KV shared between engines](shared_kv.md)",
    "store_s": "longer for a slow store: `counts.prefilled_again_tokens` grows where it is too short",
    "poll_s": "longer with hundreds of engines",
    "router_s": "shorter, if workers come and go within a rollout",
    "silent_s": "longer, if prefills of a chunk take longer than that",
    "health_s": "longer for engines that answer nothing during long prefills",
    "connect_s": "longer on slow networks",
    "stalled_s": "longer, if engines stop for longer, as for an update of weights",
    "no_engine_s": "longer, if engines are started again by somebody",
    "strikes": "hardly ever",
    "backoff_s": "hardly ever",
    "most_backoff_s": "hardly ever",
    "fruitless": "hardly ever",
    "max_running": "to hold back on engines that others use, too",
    "gc_objects": "0, where the program around the controller sets the collector itself",
    "overflow_risk": "0, if no engine shall ever retract; more where the pool is small against the limit",
    "placement": "see its keys below",
    "rules": "see its keys below",
}
PLACEMENT = {
    "balance_spread": "smaller, if some engines idle while others have a queue",
    "balance_share": "as balance_spread, for small rollouts",
    "cache_gap_tokens": "the store's `prefetch_threshold`",
}
RULES = {
    "starvation_limit": "smaller, if samples shall come evenly rather than early in the whole",
    "resolution": "hardly ever",
    "quantile": "hardly ever; nearer to 1, the more the longest of all counts",
}
ENVIRONMENT = {
    "SGLANG_SEER": "`on`: as `--scheduler-policy seer`, for launchers that have no such option. `off` wins over everything. `observe` changes nothing and notes what Seer would have done (observe.md).",
    "SGLANG_SEER_CONFIG": "As `--seer-config`: a .json or .toml file, or inline JSON.",
    "SGLANG_SEER_ALLOW_UNTESTED": "`1` tries versions of SGLang, veRL and slime that were not tested; of SGLang only signatures are checked then.",
    "SGLANG_SEER_KERNELS": "`triton` or `reference`, to look for a fault; else Triton on a GPU, the torch references on a CPU.",
    "SGLANG_SEER_CPU_WARM": "The socket of a process that the engines of the demo and of benchmarks are forked from on a CPU (README of sglang-seer-cpu).",
}  # fmt: skip
