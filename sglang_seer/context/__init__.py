"""What is learnt while a rollout runs: who belongs together, and how long responses get.

Pure Python: knows nothing of SGLang, Triton or HTTP.
"""

from sglang_seer.context.groups import Identity, identify, request_key
from sglang_seer.context.lengths import ContextLengths, LengthModel, LongestSibling
from sglang_seer.context.population import Population, Prior
from sglang_seer.context.remaining import Exactly, Remaining

__all__ = [
    "ContextLengths",
    "Exactly",
    "Identity",
    "LengthModel",
    "LongestSibling",
    "Population",
    "Prior",
    "Remaining",
    "identify",
    "request_key",
]
