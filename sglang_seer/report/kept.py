"""The file that keeps a comparison: every sample, every load, every figure."""

from pathlib import Path
from typing import Any

import msgspec

from sglang_seer.rollout.records import Load

SIDES = ("stock", "seer")


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One sample on one side. Times are seconds since that side's rollout began; counts as in `Generation`."""

    submitted_s: float
    first_s: float | None
    finished_s: float
    output_tokens: int
    retractions: int | None
    verify_steps: int | None


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One sample on both sides. Tokens, text, reason and reward are stock's; `seer_*` are set where they differ."""

    group: str
    sample: int
    seed: int
    prompt: str
    answer: str | None
    prompt_tokens: int
    output_ids: list[int]
    text: str
    finish_reason: str
    reward: float | None
    identical: bool
    stock: Run
    seer: Run
    seer_output_ids: list[int] | None = None
    seer_text: str | None = None
    seer_finish_reason: str | None = None
    seer_reward: float | None = None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Both sides of one rollout. `loads` have times since their side's rollout began."""

    samples: list[Sample]
    loads: dict[str, list[Load]]
    settings: dict[str, Any]
    machine: dict[str, Any]

    def runs(self, side: str) -> list[Run]:
        """Samples of one side, in request order."""
        if side not in SIDES:
            raise ValueError(f"side: saw {side!r}, wanted one of {', '.join(SIDES)}")
        return [getattr(sample, side) for sample in self.samples]


def write(path: Path, comparison: Comparison, figures: dict[str, Any]) -> None:
    """Writes one JSON object: the figures under their own names, beside the fields of the comparison."""
    content = {**figures, **msgspec.to_builtins(comparison)}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")


def read(path: Path) -> Comparison:
    """Reads what `write` wrote. The figures are left out: they follow from the samples.

    Raises ValueError for a file that is not there, cannot be read, or is no such object.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Comparison)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; wanted a file written by demo --json") from error
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path}: {error}; wanted a file written by demo --json") from error
