"""What holds of every bus: in one process, over ZeroMQ, and over a real Redis or Valkey server."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sglang_seer.draft.bus import Keeping
from tests.draft.bus.members import GROUP, OTHER_GROUP, VOCAB_SIZE, Member, until

Joined = Callable[..., Member]


@pytest.fixture
def both(urls: tuple[str, str], joined: Joined) -> tuple[Member, Member]:
    return joined(urls[0]), joined(urls[1])


def test_text_arrives_as_it_is_written_and_only_where_it_is_wanted(both: tuple[Member, Member]) -> None:
    writer, reader = both
    reader.shared.subscribe([GROUP])
    for offset in range(0, 100, 10):
        writer.write(GROUP, 3, offset, range(offset, offset + 10))
        writer.write(OTHER_GROUP, 4, offset, range(offset, offset + 10))
    writer.write(GROUP, 3, 100, [7], finished=True)
    until(reader.has(GROUP, 3, [*range(100), 7]))
    until(lambda: (reader.take(), reader.finished)[1] == [(GROUP, 3, 101)])
    assert reader.text.keys() == {(GROUP, 3)}
    assert writer.shared.take().text.tokens.tolist() == []


def test_who_comes_late_gets_the_group_from_its_start(both: tuple[Member, Member]) -> None:
    writer, reader = both
    writer.write(GROUP, 3, 0, range(500), finished=True)
    writer.write(GROUP, 4, 0, [1, 2])
    until(lambda: writer.status("queued_out_tokens") == 0)
    reader.shared.subscribe([GROUP])
    until(reader.has(GROUP, 3, range(500)))
    until(reader.has(GROUP, 4, [1, 2]))
    writer.write(GROUP, 4, 2, [3])
    until(reader.has(GROUP, 4, [1, 2, 3]))
    assert reader.finished == [(GROUP, 3, 500)]
    assert reader.status("catch_up_ms") > 0


def test_a_group_that_is_left_is_fetched_no_more_and_from_its_start_when_it_comes_back(
    both: tuple[Member, Member],
) -> None:
    writer, reader = both
    reader.shared.subscribe([GROUP, OTHER_GROUP])
    writer.write(GROUP, 3, 0, [1, 2])
    until(reader.has(GROUP, 3, [1, 2]))
    reader.shared.unsubscribe([GROUP])
    writer.write(GROUP, 3, 2, [3])
    writer.write(OTHER_GROUP, 3, 0, [9])
    until(reader.has(OTHER_GROUP, 3, [9]))
    assert reader.text[GROUP, 3] == [1, 2]
    del reader.text[GROUP, 3]
    reader.shared.subscribe([GROUP])
    until(reader.has(GROUP, 3, [1, 2, 3]))


def test_weights_change_on_one_side_and_then_on_the_other(both: tuple[Member, Member]) -> None:
    writer, reader = both
    reader.shared.subscribe([GROUP])
    writer.write(GROUP, 3, 0, [1, 2])
    until(reader.has(GROUP, 3, [1, 2]))
    writer.shared.drop_version(2)
    writer.write(GROUP, 3, 0, [5])
    until(lambda: writer.status("history_tokens") == 1)
    reader.take()
    assert reader.text == {(GROUP, 3): [1, 2]}
    reader.text.clear()
    reader.shared.drop_version(2)
    until(reader.has(GROUP, 3, [5]))


def test_tokens_behind_a_responses_end_do_not_change_its_length(both: tuple[Member, Member]) -> None:
    """An engine sends a run before it sees that the run stops within."""
    writer, reader = both
    reader.shared.subscribe([GROUP])
    writer.write(GROUP, 3, 0, [1, 2, 3, 4])
    writer.write(GROUP, 3, 2, [], finished=True)
    until(lambda: (reader.take(), reader.finished)[1] == [(GROUP, 3, 2)])
    until(lambda: writer.status("history_tokens") == 2)


def test_tokens_that_do_not_exist_are_dropped_and_counted(both: tuple[Member, Member]) -> None:
    writer, reader = both
    reader.shared.subscribe([GROUP])
    writer.write(GROUP, 3, 0, [VOCAB_SIZE])
    until(lambda: bool(reader.status("dropped_items").get("hostile")))
    writer.write(GROUP, 4, 0, [VOCAB_SIZE - 1])
    until(reader.has(GROUP, 4, [VOCAB_SIZE - 1]))
    assert (GROUP, 3) not in reader.text


def test_kept_text_is_bounded(urls: tuple[str, str], joined: Joined) -> None:
    writer = joined(urls[0], keeping=Keeping(tokens=1000))
    for group in range(20):
        writer.write(group, 0, 0, range(100))
        until(lambda: writer.status("queued_out_tokens") == 0)
    until(lambda: writer.status("history_tokens") <= 1000)
    assert writer.status("history_tokens") > 0


def test_long_text_is_cut_into_messages(both: tuple[Member, Member]) -> None:
    writer, reader = both
    text = [i % VOCAB_SIZE for i in range(200_000)]
    writer.write(GROUP, 3, 0, text)
    reader.shared.subscribe([GROUP])
    until(reader.has(GROUP, 3, text))
