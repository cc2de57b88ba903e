"""The ledger: every place where Seer changes SGLang, why, how, and when the patch can go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sglang_seer.patches.contract import Target


@dataclass(frozen=True, slots=True)
class Patch:
    """One change of SGLang.

    kind: before, after and around go through SGLang's own HookRegistry; assign replaces an attribute and is for values
    that are read, not called. hook: `module:name` in sglang_seer.engine.
    """

    target: Target
    kind: Literal["before", "after", "around", "assign"]
    hook: str
    why: str
    until: str


@dataclass(frozen=True, slots=True)
class PatchSet:
    """Everything Seer needs of one SGLang line: what it patches and what it calls."""

    version: str
    patches: tuple[Patch, ...]
    uses: tuple[Target, ...]

    @property
    def targets(self) -> tuple[Target, ...]:
        """Patched and used targets."""
        return tuple(patch.target for patch in self.patches) + self.uses
