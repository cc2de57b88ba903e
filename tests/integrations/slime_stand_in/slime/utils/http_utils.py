"""Stand-in: slime's HTTP client, which tries again and again."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

_http_client: httpx.AsyncClient | None = None


def init_http_client(args: Any) -> None:
    global _http_client
    _http_client = _http_client or httpx.AsyncClient(timeout=None, trust_env=False)


async def post(url: str, payload: Any, max_retries: int = 60, headers: Any = None) -> Any:
    assert _http_client is not None
    for left in reversed(range(max_retries)):
        try:
            response = await _http_client.post(url, json=payload, headers=headers)
            response.raise_for_status()
            break
        except httpx.HTTPError:
            if not left:
                raise
            await asyncio.sleep(1)
    try:
        return response.json()
    except ValueError:
        return response.text


async def get(url: str) -> Any:
    assert _http_client is not None
    response = await _http_client.get(url)
    response.raise_for_status()
    return response.json()
