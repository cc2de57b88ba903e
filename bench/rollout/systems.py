"""What is compared: stock SGLang's own settings, and Seer's techniques one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_SEER = ("--scheduler-policy", "seer")


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """How the engines of one side are started and fed.

    what: for people. divided: chunks through the rollout controller; else whole groups go to the engines in turn, as
    veRL does it. config: of Seer's engines, None for stock ones. bus: over which those share text, one of
    `sglang_seer.demo.buses`. exact: samples are those of plain decoding. SGLang's speculative sampling follows another
    law of random numbers: there they are other samples of the same distribution. observes: in observe mode. issued:
    prompts issued for each that is wanted; above 1 the rollout ends with the wanted number of samples, whichever they
    are, and the others are aborted.
    """

    what: str
    flags: tuple[str, ...] = ()
    divided: bool = False
    config: Mapping[str, Any] | None = None
    bus: str | None = None
    exact: bool = True
    observes: bool = False
    issued: int = 1

    @property
    def stock(self) -> bool:
        """All of it is SGLang's own, and it returns all samples that were asked for."""
        return self.config is None and not (self.divided or self.observes or self.issued > 1)

    @property
    def environment(self) -> dict[str, str]:
        if self.config is not None:
            return {}
        return {"SGLANG_SEER": "observe" if self.observes else "off"}


def _ngram(nodes: int, breadth: int, *flags: str) -> tuple[str, ...]:
    return (
        *("--speculative-algorithm", "NGRAM"),
        *("--speculative-num-draft-tokens", str(nodes)),
        *("--speculative-ngram-max-bfs-breadth", str(breadth)),
        *flags,
    )


BASELINE = "fcfs"
SEER = "seer"
SYSTEMS = {
    BASELINE: System(what="stock, first come first served"),
    "lof": System(what="stock, largest limit first", flags=("--schedule-policy", "lof")),
    "lpm": System(what="stock, longest prefix first", flags=("--schedule-policy", "lpm")),
    "ngram": System(what="stock NGRAM drafts, defaults", flags=("--speculative-algorithm", "NGRAM"), exact=False),
    "ngram-chain-4": System(what="stock NGRAM, chains of 4", flags=_ngram(4, 1), exact=False),
    "ngram-chain-8": System(what="stock NGRAM, chains of 8", flags=_ngram(8, 1), exact=False),
    "ngram-tree-8": System(what="stock NGRAM, trees of 8", flags=_ngram(8, 4), exact=False),
    "partial": System(what="partial rollout: twice the prompts, the first half of the samples", issued=2),
    "observe": System(what="stock, observed by Seer", observes=True),
    "divided": System(what="divided rollout on stock engines", divided=True),
    "context": System(
        what="divided + context-aware scheduling", flags=_SEER, divided=True, config={"speculation": False}
    ),
    SEER: System(what="all of Seer: + grouped drafts, shared by ipc", flags=_SEER, divided=True, config={}, bus="ipc"),
    "seer-redis": System(what="all of Seer, drafts shared by Redis", flags=_SEER, divided=True, config={}, bus="redis"),
    "seer-alone": System(what="all of Seer, drafts not shared", flags=_SEER, divided=True, config={}),
    "drop-in": System(what="Seer in each engine, no controller", flags=_SEER, config={}),
}
# Those of a replay; a record has no prompts to over-issue.
DEFAULT = tuple(name for name in SYSTEMS if name not in ("seer-redis", "seer-alone", "partial", "observe"))
ROLLOUT_DEFAULT = (*DEFAULT, "partial")


def parsed(text: str) -> list[str]:
    """Names by comma, the baseline first. Raises ValueError for one that is not known."""
    names = list(dict.fromkeys([BASELINE, *text.split(",")]))
    for name in names:
        if name not in SYSTEMS:
            raise ValueError(f"--systems: wanted some of {', '.join(SYSTEMS)}; saw {name!r}")
    return names


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """prompts x samples of at most `limit` tokens on so many engines.

    drawn: problems of which the longest `prompts` are taken; None takes all that come. chunk_tokens: of divided
    rollouts. kv_tokens: of each engine; None: a quarter of the expected demand. environment: of all engines alike.
    """

    what: str
    engines: int
    prompts: int
    samples: int
    limit: int
    running: int
    chunk_tokens: int
    kv_tokens: int | None = None
    drawn: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


WORKLOADS = {
    "quick": Workload(
        what="a few short samples on one engine, to see that it works", engines=1, prompts=3, samples=2, limit=64,
        running=4, chunk_tokens=32,
    ),
    "demo": Workload(
        what="the demo's rollout on two engines", engines=2, prompts=24, samples=8, limit=2048, running=16,
        chunk_tokens=512,
    ),
    "training": Workload(
        what="a step's rollout of examples/grpo_tiny on two engines", engines=2, prompts=16, samples=8, limit=2048,
        running=16, chunk_tokens=512,
    ),
    # Its pools are those of the training workload: what an engine has room for does not grow with the prompts.
    "scarce": Workload(
        what="32 prompts of 8 samples on two engines with KV for an eighth of the demand", engines=2, prompts=32,
        samples=8, limit=2048, running=16, chunk_tokens=512, kv_tokens=5300,
    ),
    # SGLang reserves for the limit, and takes that back only where the limit is small against the pool. After a
    # retraction it reserves more, and less again over 600 steps; these samples are so much shorter than real ones.
    "crowded": Workload(
        what="one engine whose KV pool holds a quarter of the demand, admitted boldly", engines=1, prompts=8,
        samples=16, limit=600, running=128, chunk_tokens=512, kv_tokens=12_000, drawn=48,
        environment={"SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS": "15"},
    ),
}  # fmt: skip
