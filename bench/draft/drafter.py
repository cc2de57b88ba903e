"""What a draft index is to this benchmark: one shape of call for ours and for its peers.

Every timed call takes arguments that an untimed one prepared in the form the system wants, and returns what the
system returns; turning that into `Drafts` is not timed either. So the times are those of the systems, not of adapters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Shape:
    """What is asked for a request: at most `nodes` drafted tokens, as one chain or as a tree."""

    name: str
    nodes: int
    chain: bool = False


SHAPES = (Shape("chain8", 8, chain=True), Shape("tree8", 8), Shape("tree16", 16), Shape("tree32", 32))


class PeerUnavailable(RuntimeError):
    """A peer cannot be measured here; the message says why."""


@dataclass(slots=True)
class Request:
    """One sequence: `tokens` is the whole text, prompt first; `known` of it have been generated so far."""

    id: int
    group: int
    tokens: Tokens
    prompt_tokens: int
    known: int


@dataclass(frozen=True, slots=True)
class Drafts:
    """Trees of a batch: nodes `starts[i]:starts[i + 1]` belong to request i.

    parents count from the request's first node, -1 below the last known token; parents precede children.
    probabilities: [num_nodes], estimated chance that a node's whole path is accepted; None where a system has none.
    """

    tokens: list[int]
    parents: list[int]
    starts: list[int]
    probabilities: npt.NDArray[np.float64] | None


class Drafter(Protocol):
    """A draft index under one configuration. Requests of one group are siblings.

    batched: one call serves the whole batch; otherwise `args` are lists with one item a request.
    drops: what one call can forget; a group is dropped sequence by sequence where that is all there is.
    """

    batched: bool
    drops: Literal["nothing", "sequences", "groups"]

    def reshape(self, shape: Shape) -> bool:
        """From now on drafts of this shape; False where a new index is needed for that."""

    def open(self, requests: Sequence[Request]) -> None:
        """Requests whose prompts are known and that have generated nothing yet."""

    def append_args(self, requests: Sequence[Request], counts: Sequence[int]) -> Any:
        """For `append`: the last counts[i] of the known tokens of requests[i] are new."""

    def append(self, args: Any) -> None: ...

    def propose_args(self, requests: Sequence[Request]) -> Any: ...

    def propose(self, args: Any) -> Any: ...

    def drafts(self, proposed: Any) -> Drafts: ...

    def observe(self, proposed: Any, accepted: Sequence[Sequence[int]]) -> None:
        """What verification said: the accepted nodes of each request's tree, root side first."""

    def finish(self, request: Request) -> None:
        """A response is complete; siblings may still draw on it."""

    def drop_sequence(self, request: Request) -> None:
        """Forgets one finished response."""

    def drop_group(self, requests: Sequence[Request]) -> None:
        """Forgets the rest of a group; `requests` are its finished responses that were not dropped before."""

    def reported_bytes(self) -> int | None:
        """The system's own count of its memory; None where it has none."""


@dataclass(frozen=True, slots=True)
class Config:
    """One way to run a system. `options` go to the adapter; `shapes` are those this configuration can draft."""

    system: str
    name: str
    options: dict[str, Any]
    shapes: tuple[str, ...] = ("chain8", "tree8", "tree16", "tree32")
