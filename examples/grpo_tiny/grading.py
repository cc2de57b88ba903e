"""What the training wants: the right answer, and the work done from the last term to the first.

The tiny reasoner as shipped is mostly right and begins at the first term seven times in ten; that habit is what there
is to unlearn.
"""

import re

from sglang_seer.demo.inputs import example_reward

_PLAN = re.compile(r"Plan: from #(\d+) to #(\d+)\.")
_right = example_reward()


def backwards(response: str) -> bool:
    """Whether the response begins with a plan that goes from a later term to an earlier one."""
    plan = _PLAN.match(response)
    return plan is not None and int(plan[1]) > int(plan[2])


def reward(response: str, answer: str) -> float:
    """1.0 for a right response that went backwards, else 0.0."""
    return _right(response, answer) if backwards(response) else 0.0
