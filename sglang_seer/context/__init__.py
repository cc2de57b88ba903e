"""What is learnt while a rollout runs: who belongs together, and how long responses get.

Pure Python: knows nothing of SGLang, Triton or HTTP.
"""

from sglang_seer.context.groups import GroupTable, Identity, identify, request_key
from sglang_seer.context.lengths import estimate_tokens

__all__ = ["GroupTable", "Identity", "estimate_tokens", "identify", "request_key"]
