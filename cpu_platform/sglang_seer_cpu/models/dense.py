"""The small dense models that demos and tests run."""

from sglang.srt.models import llama, qwen2, qwen3


def _classes(entry: type | list[type]) -> list[type]:
    return entry if isinstance(entry, list) else [entry]


# The name SGLang's registry looks for.
EntryClass = [model_class for module in (llama, qwen2, qwen3) for model_class in _classes(module.EntryClass)]
