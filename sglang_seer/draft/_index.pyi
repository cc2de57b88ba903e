import numpy as np
from numpy.typing import NDArray

MAX_BUDGET: int
MAX_DEPTH: int
CLASS_FLOORS: list[int]
PRIOR_VOTES: list[float]
PRIOR_RATIOS: list[float]
VOTE_WEIGHTS: tuple[int, int, int]

class SuffixIndex:
    def __init__(
        self,
        *,
        vocab_size: int,
        max_match: int,
        max_candidates: int,
        max_bytes: int,
        max_tokens: int,
        group_max_bytes: int,
        group_max_tokens: int,
        ttl_steps: int,
        shared_bytes: int,
        threads: int,
    ) -> None: ...
    def open_group(self, group: int, prompt: NDArray[np.int32], version: int, memory: int) -> None: ...
    def append(
        self,
        groups: NDArray[np.int64],
        sequences: NDArray[np.int64],
        offsets: NDArray[np.int64],
        tokens: NDArray[np.int32],
        lengths: NDArray[np.int64],
    ) -> None: ...
    def propose(
        self,
        groups: NDArray[np.int64],
        sequences: NDArray[np.int64],
        budgets: NDArray[np.int32],
        max_depth: int,
        chain: bool,
    ) -> tuple[
        NDArray[np.int32],
        NDArray[np.int32],
        NDArray[np.float32],
        NDArray[np.int32],
        NDArray[np.int64],
        NDArray[np.int64],
    ]: ...
    def observe(
        self,
        evidence: NDArray[np.int64],
        parents: NDArray[np.int32],
        starts: NDArray[np.int64],
        accepted: NDArray[np.bool_],
    ) -> None: ...
    def drop_sequence(self, group: int, sequence: int) -> None: ...
    def drop_group(self, group: int) -> None: ...
    def drop_version(self, version: int) -> None: ...
    def clear(self) -> None: ...
    def has_group(self, group: int) -> bool: ...
    def length(self, group: int, sequence: int) -> int: ...
    def num_groups(self) -> int: ...
    def num_tokens(self) -> int: ...
    def memory_bytes(self) -> int: ...
    def counters(self) -> dict[str, int]: ...
