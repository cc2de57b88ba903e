"""A training on the CPU: stock SGLang beside Seer."""

from __future__ import annotations

from bench.rows import grid
from bench.tables.results import Results


def table(results: Results) -> str:
    kept = results.document
    steps, identical = kept["steps"], kept["steps_identical"]
    seconds = {"stock": kept["rollout_s_stock"], "seer": kept["rollout_s"]}
    whole = {
        side: sum(step["rollout_s"] + step["weights_s"] + step["update_s"] for step in kept["sides"][side])
        for side in seconds
    }
    lines = [
        ["rollouts, seconds", *_pair(seconds)],
        ["whole training, seconds", *_pair(whole)],
        ["tokens sampled", *(f"{kept['output_tokens']:,}" for _ in seconds), ""],
        ["acceptance length (bonus included)", "1.00", f"{kept['acceptance_length']:.2f}", ""],
        ["mean reward, first fifth; last fifth", "", f"{kept['reward_first']:.3f}; {kept['reward_last']:.3f}", ""],
        ["steps with the same samples, rewards, loss and weights", "", f"{identical} of {steps}", ""],
    ]
    return grid([f"{steps} steps of GRPO", "stock", "Seer", "faster by"], lines)


def _pair(seconds: dict[str, float]) -> list[str]:
    return [f"{seconds['stock']:,.0f}", f"{seconds['seer']:,.0f}", f"{seconds['stock'] / seconds['seer']:.2f}x"]
