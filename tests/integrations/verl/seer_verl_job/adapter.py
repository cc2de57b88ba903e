"""A server of veRL's for engines that veRL cannot start: a Ray actor before an SGLang that answers over HTTP.

veRL 0.9.1 builds SGLang's ServerArgs by itself and looks at its dataclass fields, which SGLang 0.5.23 does not have
any more. So its own server does not start there (on SGLang 0.5.12 it does, see `own`). This one keeps its contract:
the same rules for the limit, nothing at all where tokens and log-probabilities do not match, and what an abort leaves.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import aiohttp
import ray

MAX_MODEL_LEN = 4096
TIMEOUT_S = 120.0


@ray.remote(max_concurrency=1000, num_cpus=0)
class HttpServer:
    """url: of the engine."""

    def __init__(self, url: str, *, prompt_length: int, response_length: int) -> None:
        self._url, self._prompt_length, self._response_length = url, prompt_length, response_length
        self._global_steps: int | None = None
        self._session: aiohttp.ClientSession | None = None
        self.asked: list[int] = []
        self.aborted = 0

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
            # SGLang closes connections that were idle for 5 s; a call sent at that moment would break.
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2.0)
            self._session = aiohttp.ClientSession(timeout=timeout, connector=connector)
        async with self._session.post(self._url + path, json=body) as response:
            if response.status != 200:
                raise RuntimeError(f"{self._url}{path}: status {response.status}: {await response.text()}")
            return await response.json() if path == "/generate" else None

    async def generate(
        self,
        prompt_ids: list[int],
        sampling_params: dict[str, Any],
        request_id: str,
        image_data: Any = None,
        video_data: Any = None,
    ) -> Any:
        """Carries what veRL's TokenOutput carries; importing veRL here would take seconds for each engine."""
        room = MAX_MODEL_LEN - len(prompt_ids) - 1
        if room < 0:
            raise ValueError(f"prompt of {len(prompt_ids)} tokens: the model takes {MAX_MODEL_LEN}")
        sampling = dict(sampling_params)
        in_all = self._prompt_length + self._response_length
        limit = min(self._response_length, in_all - len(prompt_ids))
        limit = sampling.pop("max_tokens", limit)
        sampling["max_new_tokens"] = max(0, min(sampling.pop("max_new_tokens", limit), room))
        self.asked.append(sampling["max_new_tokens"])
        logprobs = sampling.pop("logprobs", False)
        body = {
            "rid": request_id,
            "input_ids": list(prompt_ids),
            "sampling_params": sampling,
            "return_logprob": logprobs,
        }
        answer = await self._post("/generate", body)
        meta, tokens, kept = answer["meta_info"], answer["output_ids"], None
        self.aborted += (meta["finish_reason"] or {}).get("type") == "abort"
        if logprobs:
            pairs = meta.get("output_token_logprobs") or []
            tokens = tokens if len(pairs) == len(tokens) else []
            kept = [float(value) for value, _, _ in pairs] if tokens else []
        return SimpleNamespace(
            token_ids=list(tokens),
            log_probs=kept,
            routed_experts=None,
            stop_reason=meta["finish_reason"]["type"] if meta["finish_reason"] else None,
            num_preempted=None,
            extra_fields={"global_steps": self._global_steps},
        )

    async def set_global_steps(self, global_steps: int) -> None:
        """After an update of weights."""
        self._global_steps = global_steps

    async def abort_all_requests(self) -> None:
        """veRL's way: abort, and hold what comes."""
        await self._post("/pause_generation", {"mode": "abort"})

    async def resume_generation(self) -> None:
        await self._post("/continue_generation", {})

    async def update_weights(self, path: str, global_steps: int) -> None:
        """From a folder."""
        await self._post("/update_weights_from_disk", {"model_path": path, "weight_version": str(global_steps)})
        await self.set_global_steps(global_steps)

    async def aborts(self) -> int:
        """Requests that an abort met."""
        return self.aborted

    async def limits(self) -> list[int]:
        """Tokens that it was asked for, by request."""
        return self.asked
