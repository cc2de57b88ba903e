"""New weights from another process: a CPU's tensors are sent as shared memory, in which no device is named."""

from types import ModuleType

from sglang_seer_cpu.import_hooks import after_import, replace


def install() -> None:
    """Plant the hook; call before SGLang's modules are imported."""
    after_import("sglang.srt.utils.patch_torch", _send_as_torch_does)


def _send_as_torch_does(module: ModuleType) -> None:
    """Replace ``sglang.srt.utils.patch_torch.monkey_patch_torch_reductions``.

    It makes torch write the identity of an accelerator where one is named, and
    fails on every other tensor.
    """
    replace(module, "monkey_patch_torch_reductions", _nothing)


def _nothing() -> None: ...
