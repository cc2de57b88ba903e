"""An asyncio client of one SGLang engine."""

import time
from types import TracebackType
from typing import Any

import aiohttp

from sglang_seer.rollout.records import GenerateRequest, Generation, Load
from sglang_seer.rollout.timing import KEPT_ALIVE_S, within

SHORT_CALL_S = 10.0
# How long an engine may take to become idle when its caches are flushed.
FLUSH_IDLE_S = 30.0
# A store in a folder removes page after page.
CLEAR_S = 120.0
SHOWN_CHARACTERS = 500


class EngineError(RuntimeError):
    """An engine gave no usable answer; the text says which engine, which call, and what came back."""


class RolloutError(RuntimeError):
    """A rollout cannot go on; the text holds what each engine said."""


class EngineClient:
    """Speaks to the engine at `base_url` (`http://127.0.0.1:30000`); an async context manager.

    Every method raises EngineError for a refused or broken connection, a status other than 200, and a body that is
    not what the call promises.
    """

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "EngineClient":
        # A rollout keeps every request open at once and for long: no limit on connections; times are limited here.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT_ALIVE_S)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def generate(self, request: GenerateRequest) -> Generation:
        """Runs one sample to its end."""
        submitted_s = time.time()
        answer = await self._call("POST", "/generate", json=request.body(), timeout_s=None)
        finished_s = time.time()
        try:
            meta = answer["meta_info"]
            return Generation(
                group=request.group,
                sample=request.sample,
                output_ids=answer["output_ids"],
                finish_reason=meta["finish_reason"]["type"],
                prompt_tokens=meta["prompt_tokens"],
                submitted_s=submitted_s,
                first_s=meta.get("prefill_finished_time"),
                finished_s=finished_s,
                retractions=meta.get("num_retractions"),
                verify_steps=meta.get("spec_verify_ct", 0),
                weight_version=meta.get("weight_version"),
            )
        except (KeyError, TypeError) as error:
            raise EngineError(
                f"{self.base_url}/generate: wanted output_ids, meta_info.finish_reason.type and "
                f"meta_info.prompt_tokens; saw {str(answer)[:SHOWN_CHARACTERS]}"
            ) from error

    async def load(self, timeout_s: float = SHORT_CALL_S) -> Load:
        """The engine's load, summed over its data-parallel ranks; the engine reads it from shared memory."""
        answer = await self._call("GET", "/v1/loads", params={"include": "core"}, timeout_s=timeout_s)
        try:
            ranks = answer["loads"]
            return Load(
                at_s=time.time(),
                running=sum(rank["num_running_reqs"] for rank in ranks),
                waiting=sum(rank["num_waiting_reqs"] for rank in ranks),
                used_tokens=sum(rank["num_used_tokens"] for rank in ranks),
                capacity_tokens=sum(rank["max_total_num_tokens"] for rank in ranks),
            )
        except (KeyError, TypeError) as error:
            raise EngineError(f"{self.base_url}/v1/loads: saw {str(answer)[:SHOWN_CHARACTERS]}") from error

    async def server_info(self) -> dict[str, Any]:
        """What the engine says about itself: its arguments, versions and, with Seer, its status."""
        return await self._object("/server_info")

    async def model_info(self) -> dict[str, Any]:
        """What the engine says about its model, `weight_version` among it."""
        return await self._object("/model_info")

    async def _object(self, path: str) -> dict[str, Any]:
        info = await self._call("GET", path, timeout_s=SHORT_CALL_S)
        if not isinstance(info, dict):
            raise EngineError(f"{self.base_url}{path}: wanted an object, saw {str(info)[:SHOWN_CHARACTERS]}")
        return info

    async def health(self, timeout_s: float) -> None:
        """Returns if the engine says that it is healthy within `timeout_s`."""
        await self._call("GET", "/health", timeout_s=timeout_s, empty=True)

    async def abort(self, rid: str) -> None:
        """Ends a request of that id, if it runs."""
        await self._call("POST", "/abort_request", json={"rid": rid}, timeout_s=SHORT_CALL_S, empty=True)

    async def update_weights(self, folder: str, version: str, timeout_s: float) -> None:
        """Loads the checkpoint in `folder`, a path of the engine's machine; then drops what other weights left behind.

        Its KV and, with Seer, its draft texts and lengths. The flush waits until the engine is idle: with overlap
        scheduling it is so a moment after it has sent its last token.
        """
        body = {"model_path": folder, "weight_version": version, "flush_cache": False}
        await self._call("POST", "/update_weights_from_disk", json=body, timeout_s=timeout_s)
        flush = {"timeout": str(FLUSH_IDLE_S)}
        await self._call("POST", "/flush_cache", params=flush, timeout_s=timeout_s, empty=True)

    async def clear_store(self) -> None:
        """Empties the KV store behind the engine's prefix cache, for all engines that share it."""
        await self._call("POST", "/hicache/storage-backend/clear", timeout_s=CLEAR_S, empty=True)

    async def _call(
        self, method: str, path: str, *, timeout_s: float | None, empty: bool = False, **options: Any
    ) -> Any:
        if self._session is None:
            raise RuntimeError("EngineClient is an async context manager: use it in `async with`")
        url = self.base_url + path
        try:
            return await within(self._answer(self._session, method, url, empty, options), timeout_s)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            # ValueError: the body of a status 200 is no JSON.
            raise EngineError(f"{url}: {type(error).__name__}: {error}") from error

    async def _answer(
        self, session: aiohttp.ClientSession, method: str, url: str, empty: bool, options: dict[str, Any]
    ) -> Any:
        async with session.request(method, url, **options) as response:
            if response.status != 200:
                text = await response.text(errors="replace")
                raise EngineError(f"{url}: status {response.status}: {text[:SHOWN_CHARACTERS]}")
            return None if empty else await response.json()
