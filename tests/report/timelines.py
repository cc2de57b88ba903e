"""Synthetic comparisons whose figures are known by hand."""

from collections.abc import Sequence

from sglang_seer.report.kept import Comparison, Run, Sample
from sglang_seer.rollout.records import Load


def run(finished_s: float, *, tokens: int = 10, retractions: int | None = 0, verify_steps: int | None = 0) -> Run:
    return Run(
        submitted_s=0.0,
        first_s=None,
        finished_s=finished_s,
        output_tokens=tokens,
        retractions=retractions,
        verify_steps=verify_steps,
    )


def comparison(stock: Sequence[Run], seer: Sequence[Run], *, different: Sequence[int] = ()) -> Comparison:
    """One sample a pair; reward 1 on stock's side, and on Seer's 0 for those in `different`."""
    samples = []
    for index, (one, other) in enumerate(zip(stock, seer, strict=True)):
        sample = Sample(
            group=f"g{index // 2}",
            sample=index % 2,
            seed=index,
            prompt="1+1",
            answer="2",
            prompt_tokens=3,
            output_ids=list(range(one.output_tokens)),
            text="2",
            finish_reason="stop",
            reward=1.0,
            identical=index not in different,
            stock=one,
            seer=other,
            seer_reward=0.0 if index in different else None,
        )
        samples.append(sample)
    loads = [Load(at_s=t / 2, running=2, waiting=1, used_tokens=5 * t, capacity_tokens=100) for t in range(8)]
    return Comparison(samples=samples, loads={"stock": loads, "seer": loads}, settings={}, machine={})
