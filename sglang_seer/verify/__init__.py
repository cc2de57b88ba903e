"""What is accepted: the reference law of verification in plain torch, written from the definition.

Knows nothing of SGLang or Triton. The kernels are tested against this room, and CPU engines run it.
"""

from sglang_seer.verify.inputs import check_inputs, shape_reasons, transform_logits, value_reasons
from sglang_seer.verify.law import SamplingRows, draw, exact_law
from sglang_seer.verify.logprobs import Logprobs
from sglang_seer.verify.noise import gumbel_noise, murmur_hash32
from sglang_seer.verify.walk import Accepted, DrawFlag, accept_path, verify_tree

__all__ = [
    "Accepted",
    "DrawFlag",
    "Logprobs",
    "SamplingRows",
    "accept_path",
    "check_inputs",
    "draw",
    "exact_law",
    "gumbel_noise",
    "murmur_hash32",
    "shape_reasons",
    "transform_logits",
    "value_reasons",
    "verify_tree",
]
