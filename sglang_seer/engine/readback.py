"""What a step has decided, on the host: one asynchronous copy a step.

The next step drafts behind tokens that SGLang has not processed yet. By then the copy has mostly arrived.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


class Readback:
    """The result of one step, by request or by row."""

    def __init__(
        self,
        requests: Sequence[Any],
        tokens: torch.Tensor,
        lengths: torch.Tensor,
        nodes: torch.Tensor | None = None,
        flags: torch.Tensor | None = None,
    ) -> None:
        """Begin to copy; tokens, nodes, flags: [bs, width] and lengths: [bs], as in `Accepted`."""
        self._row = {request.rid: i for i, request in enumerate(requests)}
        parts = {"lengths": lengths[:, None], "tokens": tokens, "nodes": nodes, "flags": flags}
        columns = {name: part.to(torch.int32) for name, part in parts.items() if part is not None}
        ends = np.cumsum([part.shape[1] for part in columns.values()]).tolist()
        self._columns = dict(zip(columns, map(slice, [0, *ends[:-1]], ends), strict=True))
        packed = torch.cat(list(columns.values()), dim=1)
        # To pinned memory, which is not to be read before the event.
        self._host = packed.to("cpu", non_blocking=True)
        self._arrived: torch.cuda.Event | None = None
        if packed.is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def run(self, request: Any) -> Sequence[int]:
        """What the step emitted for a request; nothing if it took no part."""
        row = self._row.get(request.rid)
        if row is None:
            return ()
        length = int(self.part("lengths")[row, 0])
        tokens: list[int] = self.part("tokens")[row, :length].tolist()
        return tokens

    def part(self, name: str) -> npt.NDArray[np.int32]:
        """[bs, width] nodes or flags or tokens, [bs, 1] lengths; [bs, 0] for what the step did not have."""
        if self._arrived is not None:
            self._arrived.synchronize()
            self._arrived = None
        host: npt.NDArray[np.int32] = self._host.numpy()
        return host[:, self._columns.get(name, slice(0, 0))]
