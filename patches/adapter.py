"""What engine code calls of SGLang where lines differ in names or shapes: `line` is the module of the installed line.

Code above is one body for all lines. A line's module has the same names as the others, each a few lines long.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from sglang_seer.patches import lines

line: ModuleType = import_module(
    f"sglang_seer.patches.adapter_{lines.patch_set_for(lines.installed_version()).module_suffix}"
)
