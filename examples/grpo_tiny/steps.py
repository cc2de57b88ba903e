"""What is kept of a training, step by step, and how two trainings compare. Pure."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sglang_seer.rollout.records import Generation

# The first and the last reward are means over this share of the steps: one step's problems are easy or hard by chance.
END_SHARE = 0.2


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step. samples: a digest of each, in request order. loss: before the update. weights: a digest, after it.

    passes: of the target model over all requests; a verified draft is one. Times in seconds: of the rollout, of the
    weights' way to the engines, of the update.
    """

    samples: list[str]
    rewards: list[float]
    loss: float
    weights: str
    output_tokens: int
    passes: int
    rollout_s: float
    weights_s: float
    update_s: float

    @property
    def reward(self) -> float:
        """The mean."""
        return sum(self.rewards) / len(self.rewards)

    def same(self, other: "Step") -> bool:
        """Equal in all that must not depend on how the rollout was run, to the last bit."""
        return all(getattr(self, name) == getattr(other, name) for name in ("samples", "rewards", "loss", "weights"))


def digest(generation: Generation) -> str:
    """16 hexadecimal digits of a sample's tokens and its end."""
    content = msgspec.json.encode([generation.finish_reason, generation.output_ids])
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def steps_identical(one: Sequence[Step], other: Sequence[Step]) -> int:
    """How many steps are the same. Raises ValueError where one training has more of them."""
    return sum(a.same(b) for a, b in zip(one, other, strict=True))


def figures(sides: Mapping[str, Sequence[Step]]) -> dict[str, Any]:
    """Of `seer`, and of `stock` where it ran, too. Ratios are stock's time by Seer's; None without stock."""
    seer, stock = sides["seer"], sides.get("stock")
    few = max(1, int(END_SHARE * len(seer)))
    return {
        "steps": len(seer),
        "steps_identical": None if stock is None else steps_identical(stock, seer),
        "rollout_ratio": None if stock is None else seconds(stock, "rollout_s") / seconds(seer, "rollout_s"),
        "step_ratio": None if stock is None else whole_s(stock) / whole_s(seer),
        "reward_first": sum(step.reward for step in seer[:few]) / few,
        "reward_last": sum(step.reward for step in seer[-few:]) / few,
        "rollout_s": seconds(seer, "rollout_s"),
        "rollout_s_stock": None if stock is None else seconds(stock, "rollout_s"),
        "update_s": seconds(seer, "update_s"),
        "weights_s": seconds(seer, "weights_s"),
        "output_tokens": sum(step.output_tokens for step in seer),
        "acceptance_length": sum(step.output_tokens for step in seer) / sum(step.passes for step in seer),
    }


def seconds(steps: Sequence[Step], part: str) -> float:
    """Of one part, over all steps."""
    return float(sum(getattr(step, part) for step in steps))


def whole_s(steps: Sequence[Step]) -> float:
    return sum(seconds(steps, part) for part in ("rollout_s", "weights_s", "update_s"))
