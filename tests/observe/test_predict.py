"""What is predicted, against an engine that is stepped through one token at a time."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sglang_seer.observe.predict import Prediction, choose, predict, tail_share
from sglang_seer.observe.record import RECORD_VERSION, Record, Steps, Window, decode, encode
from tests.observe.made import MAX_RUNNING, lengths, record, stepped, window

GROUPS = lengths(0, groups=12, size=8)


def predicted(made: Record) -> Prediction:
    chosen = choose(made)
    assert isinstance(chosen, Window)
    found = predict(made, chosen)
    assert isinstance(found, Prediction)
    return found


def test_stock_is_simulated_as_it_was() -> None:
    responses = stepped(GROUPS)
    found = predicted(record(window(responses)))
    assert found.observed_s == pytest.approx(max(one.ended_s for one in responses))
    assert abs(found.model_error) < 1e-6
    assert list(found.outcomes) == ["fcfs", "seer-engine"]
    assert found.outcomes["fcfs"].throughput.value == 1.0
    assert found.outcomes["fcfs"].tail_s == pytest.approx(found.observed_tail_s)
    ours = found.outcomes["seer-engine"].throughput
    assert ours.lowest <= ours.value <= ours.highest and ours.lowest < ours.highest


def test_longest_groups_last_is_what_order_mends() -> None:
    """Stock order puts a few long groups at the end, where they run alone; known, they would have begun early."""
    groups = [[100] * 8] * 20 + [[900] * 4]
    worst = predicted(record(window(stepped(groups))))
    assert worst.outcomes["seer-engine"].throughput.value > 1.1
    assert worst.outcomes["seer-engine"].tail is not None
    # Negative control: where all are alike there is nothing to order.
    alike = predicted(record(window(stepped([[200] * 8] * 20))))
    assert alike.outcomes["seer-engine"].throughput.value == pytest.approx(1.0, abs=0.05)


def test_drafts_count_where_they_were_replayed() -> None:
    made = record(window(stepped(GROUPS)), drafts=[Steps(500, 700), Steps(300, 900), Steps(10, 90)])
    found = predicted(made)
    # Ten steps say nothing.
    assert found.draft_tokens == {0: pytest.approx(1.4), 1: pytest.approx(3.0)}
    plain, drafted = (found.outcomes[name].throughput.value for name in ("seer-engine", "seer-engine-spec"))
    assert drafted > 1.1 * plain
    # Negative control: drafts that are never accepted give nothing.
    useless = predicted(record(window(stepped(GROUPS)), drafts=[Steps(500, 500)]))
    assert useless.outcomes["seer-engine-spec"].throughput.value == pytest.approx(plain, rel=1e-6)


def test_perfect_drafts_are_no_error() -> None:
    found = predicted(record(window(stepped(GROUPS)), drafts=[Steps(100, 900)]))
    assert 8.9 < found.draft_tokens[0] < 9.0


def test_requests_that_come_later_are_simulated_so() -> None:
    """A group every 40 s keeps no engine busy: whatever the order, the last arrival decides."""
    arrivals = [40.0 * number for number in range(12) for _ in range(8)]
    found = predicted(record(window(stepped(GROUPS, arrivals))))
    assert abs(found.model_error) < 1e-6
    assert found.outcomes["seer-engine"].throughput.value == pytest.approx(1.0, abs=0.02)
    # Negative control: the same requests at once.
    assert found.observed_s > 3 * predicted(record(window(stepped(GROUPS)))).observed_s


def test_the_same_record_gives_the_same_prediction() -> None:
    made = record(window(stepped(GROUPS)), drafts=[Steps(500, 700)])
    assert predicted(made) == predicted(decode(encode(made)))


def test_a_pool_smaller_than_a_limit() -> None:
    """SGLang cuts limits to its pool; a caller's hint may say more."""
    made = record(window(stepped(GROUPS)), kv_capacity_tokens=950)
    found = predicted(made)
    assert found.outcomes["fcfs"].seconds > found.observed_s


def test_other_policies_of_the_engine_are_said() -> None:
    assert "by arrival; the engine's own policy is lpm" in "\n".join(
        predicted(record(window(stepped(GROUPS)), policy="lpm")).assumptions
    )
    assert next(iter(predicted(record(window(stepped(GROUPS)), policy="lof")).outcomes)) == "lof"


RESPONSES = stepped(GROUPS)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (record(), "nothing was seen"),
        (record(window([])), "0 responses have ended, wanted at least 16"),
        (record(window(RESPONSES[:15])), "15 responses have ended"),
        (record(window(RESPONSES, running=3)), "3 of the window's requests still run and 96 have ended, the short"),
        (record(window(RESPONSES, chunks=30)), "30 of 126 requests were chunks"),
        (
            record(window([msgspec.structs.replace(one, group=n) for n, one in enumerate(RESPONSES)])),
            "no two of 96 responses have the same prompt",
        ),
    ],
)
def test_too_little_was_seen(made: Record, said: str) -> None:
    found = choose(made)
    assert isinstance(found, str) and said in found


def test_the_newest_window_that_tells_enough() -> None:
    whole, short = window(RESPONSES), window(RESPONSES[:3])
    assert choose(record(whole, short)) == whole
    assert choose(record(short, whole)) == whole
    # What is missing is said of the newest.
    assert "3 responses" in str(choose(record(window([]), short)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"speculation": "NGRAM"}, "the engine drafts by itself (NGRAM)"),
        ({"steps": []}, "steps of 0 sizes were timed, wanted at least 3"),
    ],
)
def test_what_cannot_be_predicted(changes: dict[str, Any], said: str) -> None:
    found = predict(record(window(RESPONSES), **changes), window(RESPONSES))
    assert isinstance(found, str) and said in found


def test_the_tail_is_the_last_tenth() -> None:
    made = window(stepped([[10] * 9 + [100]]))
    (longest,) = (one for one in made.responses if one.tokens == 100)
    others = max(one.ended_s for one in made.responses if one.tokens == 10)
    assert tail_share(made) == pytest.approx((longest.ended_s - others) / longest.ended_s)
    assert len(made.responses) <= MAX_RUNNING


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "missing required field `policy`"),
        ("<html>", "record: "),
        (encode(record()).replace(f'"version":{RECORD_VERSION}', '"version":99'), "got version 99, wanted 1"),
    ],
)
def test_records_of_others(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="record: ") as raised:
        decode(text)
    assert said in str(raised.value)
