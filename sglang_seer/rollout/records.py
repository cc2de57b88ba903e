"""What goes to an engine and what comes back."""

from typing import Any

import msgspec


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One sample of one group. Each sample is its own request: with n > 1 an engine gives siblings one seed.

    group: name of the prompt's group. sample: number within it. input_ids: the prompt, chat template applied.
    limit: most new tokens. seed: of this sample alone.
    """

    group: str
    sample: int
    input_ids: list[int]
    limit: int
    seed: int
    temperature: float = 1.0

    def body(self) -> dict[str, Any]:
        """The JSON body for SGLang's /generate."""
        hints = {"group": self.group, "sample": self.sample, "prompt_len": len(self.input_ids), "limit": self.limit}
        return {
            "input_ids": self.input_ids,
            "sampling_params": {
                "temperature": self.temperature,
                "max_new_tokens": self.limit,
                "sampling_seed": self.seed,
                "custom_params": {"seer": hints},
            },
        }


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """A finished sample. Times are seconds since the epoch, by this machine's clock.

    first_s: end of the prefill, None unless the engine runs with --enable-metrics. finish_reason: `stop` or `length`.
    retractions: how often the engine took the request's KV away. verify_steps: forward passes that verified a draft,
    0 without speculation. An engine that does not report a count, or its weight version, gives None.
    """

    group: str
    sample: int
    output_ids: list[int]
    finish_reason: str
    prompt_tokens: int
    submitted_s: float
    first_s: float | None
    finished_s: float
    retractions: int | None
    verify_steps: int | None
    weight_version: str | None = None


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """An engine's load at one moment (seconds since the epoch); tokens are KV slots."""

    at_s: float
    running: int
    waiting: int
    used_tokens: int
    capacity_tokens: int
