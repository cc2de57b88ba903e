"""Rollouts to simulate: how many prompts and samples, and how long the responses are.

    log length of sample j of prompt i = mean + sigma * (sqrt(correlation) * a_i + sqrt(1 - correlation) * b_ij)

a and b are standard normal, so `correlation` is the intraclass correlation of log lengths. Lengths are cut at the
limit, and the mean is set so that the mean length after the cut is the wanted one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from sglang_seer.sim.request import Request


class Workload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """model: of builtin.MODELS. sigma: standard deviation of log lengths. runaway: share of responses that do not end
    before the limit, whatever their prompt. prompt_tokens: mean; single prompts are half to one and a half of it."""

    name: str
    model: str
    gpus: int
    prompts: int
    group_size: int
    limit_tokens: int
    mean_tokens: int
    sigma: float = 1.0
    correlation: float = 0.88
    runaway: float = 0.0
    prompt_tokens: int = 1024

    def __post_init__(self) -> None:
        for name in ("gpus", "prompts", "group_size", "limit_tokens", "mean_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, wanted at least 1")
        if self.prompt_tokens < 0:
            raise ValueError(f"prompt_tokens: got {self.prompt_tokens}, wanted 0 or more")
        if self.limit_tokens < self.mean_tokens:
            raise ValueError(f"limit_tokens: got {self.limit_tokens}, wanted at least mean_tokens, {self.mean_tokens}")
        if not 0.0 <= self.sigma < 5.0:
            raise ValueError(f"sigma: got {self.sigma}, wanted 0 to 5")
        for name in ("correlation", "runaway"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}: got {getattr(self, name)}, wanted 0 to 1")

    def requests(self, seed: int) -> list[Request]:
        """The responses of one rollout, group by group. Raises ValueError where no mean gives the wanted one."""
        rng = np.random.default_rng(seed)
        between = rng.standard_normal((self.prompts, 1))
        within = rng.standard_normal((self.prompts, self.group_size))
        prompts = rng.uniform(0.5, 1.5, self.prompts) * self.prompt_tokens
        ends = rng.random((self.prompts, self.group_size)) >= self.runaway
        noise = self.sigma * (math.sqrt(self.correlation) * between + math.sqrt(1.0 - self.correlation) * within)
        # The location belongs to the law, not to the draw: the same for every seed.
        location = self._location()
        lengths = np.clip(np.rint(np.exp(location + noise)), 1, self.limit_tokens)
        lengths = np.where(ends, lengths, self.limit_tokens).astype(np.int64)
        return requests_of(lengths.tolist(), self.limit_tokens, [int(tokens) for tokens in prompts])

    def issue(self, times: int) -> Workload:
        """The same with so many times the prompts."""
        return msgspec.structs.replace(self, prompts=times * self.prompts)

    def _location(self) -> float:
        """Mean of log lengths that gives `mean_tokens` after the cut; by bisection on the closed form."""
        mean = (self.mean_tokens - self.runaway * self.limit_tokens) / (1.0 - self.runaway) if self.runaway < 1 else 0.0
        if not 1.0 <= mean <= self.limit_tokens:
            raise ValueError(
                f"mean_tokens: got {self.mean_tokens}, wanted a mean that {self.runaway:.0%} of responses at the limit "
                f"of {self.limit_tokens} tokens leave possible"
            )
        low, high = 0.0, math.log(self.limit_tokens) + 6.0 * self.sigma + 1.0
        for _ in range(80):
            middle = 0.5 * (low + high)
            if _cut_mean(middle, self.sigma, self.limit_tokens) < mean:
                low = middle
            else:
                high = middle
        return 0.5 * (low + high)


def _cut_mean(location: float, sigma: float, limit: int) -> float:
    """Mean of min(exp(N(location, sigma^2)), limit)."""
    if sigma == 0.0:
        return min(math.exp(location), limit)
    edge = (math.log(limit) - location) / sigma
    inside = math.exp(location + 0.5 * sigma * sigma) * _normal(edge - sigma)
    return inside + limit * (1.0 - _normal(edge))


def _normal(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


# The paper's table 3. What it does not state is assumed. Log lengths spread so that some thousand of them reach "from a
# few hundred" to the limit: sigma 1. Siblings scatter by 0.35, hence a correlation of 1 - 0.35^2 = 0.88: in public
# multi-sample responses of chat, reasoning and agent models log lengths scatter by 0.16 to 0.37 within a prompt.
PAPER = {
    workload.name: workload
    for workload in (
        Workload(
            name="moonlight",
            model="Moonlight",
            gpus=32,
            prompts=400,
            group_size=8,
            limit_tokens=65_536,
            mean_tokens=22_386,
        ),
        Workload(
            name="qwen2-vl-72b",
            model="Qwen2-VL-72B",
            gpus=128,
            prompts=600,
            group_size=16,
            limit_tokens=40_960,
            mean_tokens=7_615,
        ),
        Workload(
            name="kimi-k2",
            model="Kimi-K2",
            gpus=256,
            prompts=800,
            group_size=8,
            limit_tokens=98_304,
            mean_tokens=38_959,
        ),
    )
}


def requests_of(
    groups: Sequence[Sequence[int]], limit_tokens: int, prompt_tokens: Sequence[int] | None = None
) -> list[Request]:
    """Requests of given lengths. Raises ValueError for no group, an empty one, and lengths beyond the limit."""
    if not groups:
        raise ValueError("groups: got none, wanted at least one")
    requests: list[Request] = []
    for number, lengths in enumerate(groups):
        if not lengths:
            raise ValueError(f"groups: group {number} is empty, wanted at least one response")
        for length in lengths:
            requests.append(
                Request(
                    index=len(requests),
                    group=f"{number}",
                    prompt_tokens=prompt_tokens[number] if prompt_tokens else 0,
                    length_tokens=length,
                    limit_tokens=limit_tokens,
                )
            )
    return requests


class _Trace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A recorded rollout: token lengths of the responses, by prompt."""

    limit_tokens: int
    groups: list[list[int]]
    prompt_tokens: list[int] | None = None


def read_trace(path: Path) -> list[Request]:
    """The requests of a JSON trace {"limit_tokens", "groups": [[length, ...], ...], "prompt_tokens": [...]}.

    Raises ValueError for a file that is not there or is no such trace.
    """
    try:
        trace = msgspec.json.decode(path.read_bytes(), type=_Trace)
        if trace.prompt_tokens is not None and len(trace.prompt_tokens) != len(trace.groups):
            raise ValueError(
                f"prompt_tokens: got {len(trace.prompt_tokens)}, wanted one for each of {len(trace.groups)}"
            )
        return requests_of(trace.groups, trace.limit_tokens, trace.prompt_tokens)
    except OSError as error:
        raise ValueError(f"trace {path}: cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise ValueError(f"trace {path}: {error}") from error


def read_workload(path: Path) -> Workload:
    """Raises ValueError for a file that is not there or is no workload."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Workload)
    except OSError as error:
        raise ValueError(f"workload {path}: cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise ValueError(f"workload {path}: {error}") from error
