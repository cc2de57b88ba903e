"""The ledger: every place where Seer changes SGLang, why, how, and when the patch can go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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


# Of a target on another line: its fingerprint, with its parameters where they differ.
Seen = str | tuple[tuple[str, ...] | None, str]


@dataclass(frozen=True, slots=True)
class PatchSet:
    """Everything Seer needs of one SGLang line: what it patches and what it calls."""

    version: str
    # Of the line's adapter: `sglang_seer.patches.adapter_<suffix>`.
    module_suffix: str
    patches: tuple[Patch, ...]
    uses: tuple[Target, ...]
    # Builds of the same version that carry patches of a framework: by name, the targets that look different in them.
    builds: Mapping[str, Mapping[str, Seen]] = field(default_factory=dict)

    @property
    def targets(self) -> tuple[Target, ...]:
        """Patched and used targets."""
        return tuple(patch.target for patch in self.patches) + self.uses

    def targets_of(self, build: str) -> tuple[Target, ...]:
        """The same in one of the builds."""
        seen = self.builds[build]
        _check_known(self, seen)
        return tuple(
            _adapted(target, seen[_short(target)]) if _short(target) in seen else target for target in self.targets
        )


def _short(target: Target) -> str:
    return target.path.removeprefix("sglang.srt.")


def _check_known(patch_set: PatchSet, seen: Mapping[str, Seen]) -> None:
    unknown = seen.keys() - {_short(target) for target in patch_set.targets}
    if unknown:
        raise ValueError(f"not targets of SGLang {patch_set.version}: {sorted(unknown)}")


def _adapted(target: Target, look: Seen) -> Target:
    if isinstance(look, str):
        return replace(target, fingerprint=look)
    return replace(target, parameters=look[0], fingerprint=look[1])


def on_another_line(patch_set: PatchSet, seen: Mapping[str, Seen]) -> tuple[tuple[Patch, ...], tuple[Target, ...]]:
    """Patches and uses of a patch set that another line has as well.

    seen: by path without the leading `sglang.srt.`, which of the targets and what they look like there. Raises
    ValueError for a path that is none of the patch set's.
    """
    _check_known(patch_set, seen)
    patches = tuple(
        replace(patch, target=_adapted(patch.target, seen[_short(patch.target)]))
        for patch in patch_set.patches
        if _short(patch.target) in seen
    )
    uses = tuple(_adapted(target, seen[_short(target)]) for target in patch_set.uses if _short(target) in seen)
    return patches, uses
