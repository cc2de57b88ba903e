"""Arguments and scratch memory of one verification, in the forms that the kernels take."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton

from sglang_seer.kernels.rows import GROUP
from sglang_seer.kernels.schedule import Schedule
from sglang_seer.verify import Logprobs, SamplingRows


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """Memory that lives for one verification; unused parts are other tensors, so that every pointer is one.

    scores: [rows, splits] float64, winners: [rows, splits] int32, stats: [4, rows, splits] float32, as
    `draw.scan_kernel` leaves them. settled: [2, rows] int32, tokens settled outside the scan and their flags.
    path: [bs, width] int32. maxima: [rows, groups] float32. groups: [rows, capacity / 2] int32. candidates:
    [rows, capacity] int64. normalizers: [2, rows] float32.
    """

    scores: torch.Tensor
    winners: torch.Tensor
    stats: torch.Tensor
    settled: torch.Tensor
    path: torch.Tensor
    maxima: torch.Tensor
    groups: torch.Tensor
    candidates: torch.Tensor
    normalizers: torch.Tensor

    @classmethod
    def allocate(cls, bs: int, width: int, vocab: int, device: torch.device, needs: Needs) -> Scratch:
        """Memory for what a step needs, not initialized."""
        rows, schedule = bs * width, needs.schedule

        def empty(dtype: torch.dtype, *shape: int) -> torch.Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        stats = empty(torch.float32, 4, rows, schedule.splits)
        settled = empty(torch.int32, 2, rows)
        return cls(
            scores=empty(torch.float64, rows, schedule.splits),
            winners=empty(torch.int32, rows, schedule.splits),
            stats=stats,
            settled=settled,
            path=empty(torch.int32, bs, width) if schedule.walk else settled,
            maxima=empty(torch.float32, rows, triton.cdiv(vocab, GROUP.value)) if needs.maxima else stats,
            groups=empty(torch.int32, rows, schedule.capacity // 2) if needs.filters else settled,
            candidates=empty(torch.int64, rows, schedule.capacity) if needs.filters else settled,
            normalizers=empty(torch.float32, 2, rows) if needs.normalizers else stats,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Which parts of the scratch memory a step uses."""

    schedule: Schedule
    filters: bool
    maxima: bool
    normalizers: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Arguments of one verification; tensors other than logits, bias and grammar mask are contiguous."""

    logits: torch.Tensor
    draft_tokens: torch.Tensor
    parents: torch.Tensor
    positions: torch.Tensor
    rows: SamplingRows
    bias: torch.Tensor | None
    grammar_mask: torch.Tensor | None
    want: Logprobs
    schedule: Schedule
    levels: int
    scratch: Scratch

    @property
    def num_rows(self) -> int:
        return self.logits.shape[0]

    @property
    def vocab(self) -> int:
        return self.logits.shape[1]

    @property
    def width(self) -> int:
        return self.draft_tokens.shape[1]

    @property
    def transforms(self) -> tuple[object, ...]:
        """Pointers and strides of the logits and of what is added to them."""
        bias = self.logits if self.bias is None else self.bias
        mask = self.scratch.settled if self.grammar_mask is None else self.grammar_mask
        return (
            self.logits,
            self.logits.stride(0),
            bias,
            bias.stride(0),
            self.num_rows // bias.shape[0],
            mask,
            mask.stride(0),
        )

    @property
    def law(self) -> tuple[torch.Tensor, ...]:
        """Sampling parameters, seeds and positions."""
        rows = self.rows
        return rows.temperatures, rows.top_ks, rows.top_ps, rows.min_ps, rows.seeds, self.positions

    @property
    def constants(self) -> dict[str, object]:
        """Compile-time constants of all kernels that load logits."""
        return {"HAS_BIAS": self.bias is not None, "HAS_MASK": self.grammar_mask is not None}

    @property
    def padded_splits(self) -> int:
        return triton.next_power_of_2(self.schedule.splits)

    @property
    def padded_width(self) -> int:
        return triton.next_power_of_2(self.width)

    @property
    def padded_groups(self) -> int:
        return triton.next_power_of_2(self.scratch.maxima.shape[1])
