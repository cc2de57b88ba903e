"""What Seer remembers of a live request, kept on the request itself so that it goes when the request goes."""

from __future__ import annotations

import hashlib
import logging
from array import array
from dataclasses import dataclass
from typing import Any

from sglang_seer.context import Identity, identify, request_key
from sglang_seer.status import STATUS

logger = logging.getLogger("sglang_seer")
_ATTRIBUTE = "_seer_state"


@dataclass(slots=True)
class RequestState:
    """identity: None for requests that generate nothing, which Seer leaves alone.

    index_group: of requests that draft from each other. prompt: the same for equal prompts of any group.
    index_sequence: key of the response in the suffix index. seed: of an unseeded request. arrival: order in which this
    scheduler saw its requests. index_id: the index's group that it was last appended to, 0 for none. sequence_tokens:
    response tokens handed to that group. chunk: of its response, the one that it was last seen in. yielded: it waits
    since the end of a chunk. finished: its end was learnt.
    """

    identity: Identity | None
    arrival: int
    index_group: int
    prompt: int
    index_sequence: int
    seed: int
    index_id: int = 0
    sequence_tokens: int = 0
    chunk: int = 0
    yielded: bool = False
    finished: bool = False


class RequestStates:
    """Makes states; ranks of one engine see the same requests in the same order and make the same ones."""

    def __init__(self, random_seed: int) -> None:
        self._random_seed = random_seed
        self._arrivals = 0

    def of(self, request: Any) -> RequestState:
        """State of a live SGLang request, made at first sight."""
        state: RequestState | None = getattr(request, _ATTRIBUTE, None)
        if state is None:
            state = self._make(request)
            setattr(request, _ATTRIBUTE, state)
        return state

    def _make(self, request: Any) -> RequestState:
        self._arrivals += 1
        prompt = request.origin_input_ids_unpadded
        parameters = request.sampling_params
        try:
            identity = identify(parameters.custom_params, prompt, parameters.max_new_tokens)
        except ValueError as error:
            STATUS.first("malformed_hints", "request %s: %s; grouping it by its prompt", request.rid, error)
            identity = identify(None, prompt, parameters.max_new_tokens)
        index_group = prompt_key = 0
        if identity is not None:
            # The prompt is part of the key: an id that a caller uses for two prompts must not mix them.
            prompt_bytes = array("q", prompt[: identity.prompt_tokens]).tobytes()
            digest = hashlib.blake2b(prompt_bytes, digest_size=16).hexdigest()
            index_group = request_key(f"{identity.group}/{digest}")
            prompt_key = request_key(digest)
        return RequestState(
            identity=identity,
            arrival=self._arrivals,
            index_group=index_group,
            prompt=prompt_key,
            index_sequence=self._arrivals,
            seed=request_key(f"{self._random_seed}/{self._arrivals}/{request.rid}"),
        )
