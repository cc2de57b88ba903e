"""What a command finds out by itself: the workers of a router, the tokenizer of the engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import aiohttp

from sglang_seer.rollout.client import SHORT_CALL_S, EngineClient, EngineError, RolloutError
from sglang_seer.rollout.seams import Tokenizer
from sglang_seer.rollout.timing import within


async def engines_of_router(url: str) -> list[str]:
    """URLs of a router's workers, by its `/workers` or the older `/list_workers`.

    A router may send a request to a worker that has died; so the workers themselves are asked, and watched.
    Raises RolloutError where the router does not answer or has no workers.
    """
    base, said = url.rstrip("/"), []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        for path in ("/workers", "/list_workers"):
            try:
                if workers := _workers(await within(_json(session, base + path), SHORT_CALL_S)):
                    return workers
                said.append(f"{path}: no workers")
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                said.append(f"{path}: {str(error) or type(error).__name__}")
    raise RolloutError(f"router {base}: wanted its workers, saw {'; '.join(said)}")


async def _json(session: aiohttp.ClientSession, url: str) -> object:
    async with session.get(url) as response:
        if response.status != 200:
            raise ValueError(f"status {response.status}")
        return await response.json()


def _workers(answer: object) -> list[str]:
    if not isinstance(answer, dict):
        raise ValueError(f"wanted an object, saw {str(answer)[:200]}")
    listed = answer.get("workers") or answer.get("urls") or []
    urls = [one.get("url") if isinstance(one, dict) else one for one in listed]
    return [url.rstrip("/") for url in urls if isinstance(url, str) and url]


async def tokenizer_of(engines: Sequence[str], path: str | None) -> Tokenizer:
    """The tokenizer at `path`, or the one that the first engine that answers says it has.

    Raises RolloutError where none answers, ValueError for a tokenizer that cannot be read here.
    """
    source = path or await _said_by(engines)
    # It takes seconds to import.
    from transformers import AutoTokenizer

    try:
        return cast(Tokenizer, AutoTokenizer.from_pretrained(source, local_files_only=Path(source).exists()))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"tokenizer {source!r}: it cannot be read: {error}; wanted --tokenizer PATH or none"
        ) from error


async def _said_by(engines: Sequence[str]) -> str:
    said = []
    for url in engines:
        try:
            async with EngineClient(url) as client:
                info = await client.server_info()
        except EngineError as error:
            said.append(str(error))
            continue
        if isinstance(source := info.get("tokenizer_path"), str):
            return source
        said.append(f"{url}: it names no tokenizer; wanted --tokenizer PATH or none")
    raise RolloutError("no engine answers: " + "; ".join(said))
