"""What is accepted: the reference law of verification in plain torch, written from the definition.

Knows nothing of SGLang or Triton. The kernels are tested against this room, and CPU engines run it.
"""

from sglang_seer.verify.law import SamplingRows, draw
from sglang_seer.verify.noise import gumbel_noise, murmur_hash32
from sglang_seer.verify.walk import Accepted, accept_path, verify_tree

__all__ = ["Accepted", "SamplingRows", "accept_path", "draw", "gumbel_noise", "murmur_hash32", "verify_tree"]
