"""New weights from a folder, in the place of a trainer: veRL takes it as `checkpoint_engine.custom_backend_module`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from verl.checkpoint_engine.base import CheckpointEngineRegistry, ColocatedCheckpointEngine

# Processes of different parents can share memory by its name only.
torch.multiprocessing.set_sharing_strategy("file_system")


def file_of(folder: Path, global_steps: int | None) -> Path:
    """The weights of a step."""
    return folder / f"step_{global_steps}.safetensors"


@CheckpointEngineRegistry.register("folder")
class FolderCheckpointEngine(ColocatedCheckpointEngine):  # type: ignore[misc]
    """Nobody has to send what lies in a folder: there is no group of processes to make."""

    def __init__(self, bucket_size: int, folder: str) -> None:
        super().__init__(bucket_size)
        self._folder = Path(folder)

    def prepare(self) -> None: ...

    def init_process_group(self, rank: int) -> None: ...

    def finalize(self) -> None: ...

    @classmethod
    def build_topology(
        cls, trainers: int, rollouts: int, metadata: list[Any]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        return {"rank": list(range(trainers))}, {"rank": list(range(rollouts))}

    def receive_weights(self, global_steps: int | None = None) -> Iterator[tuple[str, torch.Tensor]]:
        yield from load_file(file_of(self._folder, global_steps)).items()


class NoTrainers:
    """veRL's group of trainers, of none."""

    world_size = 0

    def execute_checkpoint_engine(self, *_: Any, **__: Any) -> list[Any]:
        return []

    def update_weights(self, **_: Any) -> list[Any]:
        return []
