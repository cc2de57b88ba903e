"""What a command finds out by itself: the workers of a router, the tokenizer of the engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import aiohttp

from sglang_seer.rollout.client import SHORT_CALL_S, EngineClient, EngineError, RolloutError
from sglang_seer.rollout.seams import Tokenizer


async def engines_of_router(url: str) -> list[str]:
    """URLs of a router's workers, by its `/workers` or the older `/list_workers`.

    A router may send a request to a worker that has died; so the workers themselves are asked, and watched.
    Raises RolloutError where the router does not answer or has no workers.
    """
    base, said = url.rstrip("/"), []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SHORT_CALL_S)) as session:
        for path in ("/workers", "/list_workers"):
            try:
                async with session.get(base + path) as response:
                    if response.status != 200:
                        said.append(f"{path}: status {response.status}")
                        continue
                    if workers := _workers(await response.json()):
                        return workers
                    said.append(f"{path}: no workers")
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                said.append(f"{path}: {type(error).__name__}: {error}")
    raise RolloutError(f"router {base}: wanted its workers, saw {'; '.join(said)}")


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
