"""Which responses are kept, and where one window ends and the next begins."""

from __future__ import annotations

from sglang_seer.observe.windows import Windows


class Key:
    """Lives as long as its request."""


def join(windows: Windows, group: str, now_s: float, **more: float) -> tuple[Key, int | None]:
    key = Key()
    arrived_s = more.get("arrived_s", now_s)
    number = windows.joined(key, group, prompt_tokens=7, limit_tokens=50, arrived_s=arrived_s, now_s=now_s)
    return key, number


def test_a_response_is_kept_with_its_times() -> None:
    windows = Windows()
    first, _ = join(windows, "a", 101.0, arrived_s=100.0)
    second, number = join(windows, "b", 102.0, arrived_s=100.5)
    assert number == 1
    assert windows.ended(second, 9, retractions=2, now_s=103.5) == 1
    (window,) = windows.shown()
    assert (window.running, window.aborted) == (1, 0)
    (one,) = window.responses
    assert (one.group, one.prompt_tokens, one.tokens, one.limit_tokens, one.retractions) == (1, 7, 9, 50, 2)
    assert (one.arrived_s, one.first_s, one.ended_s) == (0.5, 2.0, 3.5)
    # A name that was never joined, or has ended already.
    assert windows.ended(second, 9, retractions=0, now_s=104.0) is None
    del first


def test_requests_that_go_without_a_word_were_aborted() -> None:
    windows = Windows()
    gone, _ = join(windows, "a", 1.0)
    told, _ = join(windows, "a", 1.0)
    chunk, _ = join(windows, "a", 1.0)
    del gone
    windows.aborted(told, 2.0)
    windows.chunk_ended(chunk, 2.0)
    (window,) = windows.shown()
    assert (window.running, window.aborted, window.chunks, window.responses) == (0, 2, 1, [])


def test_a_pause_and_a_flush_begin_another_window() -> None:
    windows = Windows(pause_s=5.0)
    for now_s in (0.0, 6.0):  # no pause: what lasts from 0 to 5.5 is work
        key, number = join(windows, f"at {now_s}", now_s)
        windows.ended(key, 3, retractions=0, now_s=now_s + 5.5)
    assert (number, windows.number) == (1, 1)
    key, number = join(windows, "later", 17.0)
    assert (number, windows.number) == (0, 2)
    whole, present = windows.shown()
    assert [len(whole.responses), len(present.responses), present.running] == [2, 0, 1]
    windows.ended(key, 3, retractions=0, now_s=18.0)
    windows.close()
    assert [len(window.responses) for window in windows.shown()] == [1, 0]
    # A flush of an engine that did nothing hides nothing.
    windows.close()
    assert [len(window.responses) for window in windows.shown()] == [1, 0]


def test_a_pause_while_somebody_runs_is_none() -> None:
    windows = Windows(pause_s=5.0)
    long, _ = join(windows, "long", 0.0)
    _, number = join(windows, "other", 100.0)
    assert (number, windows.number) == (1, 1)
    del long


def test_who_comes_first_is_kept_whatever_its_length() -> None:
    """Those that end first are the short ones: keeping them would make a rollout look short."""
    windows = Windows(most_responses=2)
    kept = [join(windows, "a", 0.0)[0] for _ in range(2)]
    late, number = join(windows, "a", 1.0)
    assert number is None
    assert windows.ended(late, 1, retractions=0, now_s=2.0) is None
    for key, tokens in zip(kept, (90, 80), strict=True):
        windows.ended(key, tokens, retractions=0, now_s=50.0)
    (window,) = windows.shown()
    assert [one.tokens for one in window.responses] == [90, 80] and window.left_out == 1
    # A limit that was larger than the response says, as of a later chunk, is none.
    assert window.responses[0].limit_tokens == 90
    # It is whole now: whoever comes next begins another one, without a pause.
    join(windows, "b", 50.1)
    assert windows.number == 2
