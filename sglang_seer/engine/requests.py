"""What Seer remembers of a live request, kept on the request itself so that it goes when the request goes."""

from __future__ import annotations

import hashlib
import logging
import secrets
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakValueDictionary

from sglang_seer.context import Identity, identify, request_key
from sglang_seer.draft.bus import MOST_REQUESTS
from sglang_seer.status import STATUS

logger = logging.getLogger("sglang_seer")
# Responses that went on elsewhere stay known; the oldest go first.
MOST_CHUNKED = 65_536
_ATTRIBUTE = "_seer_state"
_MOST_GROUPS = 65_536
_PRUNE_ARRIVALS = 1024


@dataclass(eq=False)
class RequestState:
    """identity: None for requests that generate nothing, which Seer leaves alone.

    index_group: of requests that draft from each other, the same number on every engine. number: of the response on the
    token bus, unique within the group over all engines; chunks of one response have the same if they name their sample.
    prompt: the same for equal prompts of any group.
    index_sequence: key of the response in the suffix index. seed: of an unseeded request. arrival: order in which this
    scheduler saw its requests. index_id: the index's group that it was last appended to, 0 for none. sequence_tokens:
    response tokens handed to that group. chunk: of its response, the one that it was last seen in. yielded: it waits
    since the end of a chunk. finished: its end was learnt. expected_tokens: of the whole response,
    as estimated when it was admitted.
    """

    identity: Identity | None
    arrival: int
    index_group: int
    number: int
    prompt: int
    index_sequence: int
    seed: int
    index_id: int = 0
    sequence_tokens: int = 0
    chunk: int = 0
    yielded: bool = False
    finished: bool = False
    expected_tokens: float | None = None


class RequestStates:
    """Makes states; ranks of one engine see the same requests in the same order and make the same ones.

    The chunks of one response are one response: a later one goes on with arrival and text of the one before.
    """

    def __init__(self, random_seed: int) -> None:
        self._random_seed = random_seed
        self._arrivals = 0
        # By group and sample: responses whose last chunk ended here.
        self._chunked: OrderedDict[tuple[int, int], RequestState] = OrderedDict()
        # Of no decision that ranks must agree on.
        self._engine = secrets.token_hex(8)
        self._live: dict[int, WeakValueDictionary[int, RequestState]] = {}
        self._identities: OrderedDict[int, Identity] = OrderedDict()

    def of(self, request: Any) -> RequestState:
        """State of a live SGLang request, made at first sight."""
        state: RequestState | None = getattr(request, _ATTRIBUTE, None)
        if state is None:
            state = self._make(request)
            setattr(request, _ATTRIBUTE, state)
        return state

    @staticmethod
    def with_news(requests: Sequence[Any]) -> list[Any]:
        """Of live requests, those that end, and those whose first token nobody has learnt of. Cheap: once a step."""
        return [
            request
            for request in requests
            if request.finished_reason is not None
            or (state := request.__dict__.get(_ATTRIBUTE)) is None
            or state.expected_tokens is None
        ]

    def chunk_ended(self, request: Any) -> bool:
        """The response goes on in a later request. False where that cannot be known again: it has no sample number."""
        state = self.of(request)
        if state.identity is None or state.identity.sample is None:
            return False
        # A copy: the request itself is gone, and nobody is to take it for live.
        self._chunked[state.index_group, state.identity.sample] = replace(state)
        if len(self._chunked) > MOST_CHUNKED:
            self._chunked.popitem(last=False)
        return True

    def identity_of(self, index_group: int) -> Identity | None:
        """Of a recent request of the group, the same on every rank; None if there was none."""
        return self._identities.get(index_group)

    def live(self, index_group: int) -> bool:
        """Whether a request of the group waits or runs here."""
        return bool(self._live.get(index_group))

    def owns(self, index_group: int, number: int) -> bool:
        """Whether that response waits or runs here."""
        return number in self._live.get(index_group, ())

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
        state = RequestState(
            identity=identity,
            arrival=self._arrivals,
            index_group=index_group,
            number=self._number(parameters.custom_params, index_group),
            prompt=prompt_key,
            index_sequence=self._arrivals,
            seed=request_key(f"{self._random_seed}/{self._arrivals}/{request.rid}"),
        )
        if identity is not None and identity.sample is not None:
            before = self._chunked.pop((index_group, identity.sample), None)
            earlier = len(prompt) - identity.prompt_tokens
            # Less input than it had: another response of that name.
            if before is not None and 0 < before.sequence_tokens <= earlier:
                state.arrival, state.index_sequence = before.arrival, before.index_sequence
                state.index_id, state.sequence_tokens = before.index_id, before.sequence_tokens
        if identity is not None:
            self._remember(state, identity)
        return state

    def _number(self, custom_params: Any, index_group: int) -> int:
        hint = custom_params.get("seer") if isinstance(custom_params, dict) else None
        if isinstance(hint, dict) and "sample" in hint:
            named = _number(f"{hint.get('step')}/{hint['sample']}")
            # Two live responses of one name are not chunks of one response.
            if not self.owns(index_group, named):
                return named
        return _number(f"{self._engine}/{self._arrivals}")

    def _remember(self, state: RequestState, identity: Identity) -> None:
        self._live.setdefault(state.index_group, WeakValueDictionary())[state.number] = state
        if self._arrivals % _PRUNE_ARRIVALS == 0:
            self._live = {group: states for group, states in self._live.items() if states}
        self._identities[state.index_group] = identity
        self._identities.move_to_end(state.index_group)
        if len(self._identities) > _MOST_GROUPS:
            self._identities.popitem(last=False)


def _number(name: str) -> int:
    return request_key(name) % MOST_REQUESTS
