"""The verifier against SGLang's stock path, FlashInfer's sampling kernels and the memory floor; see `command`."""

from bench.verify.command import main

__all__ = ["main"]
