"""A hypothesis state machine: links that lose, repeat, reorder, delay and change messages, against a perfect memory."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sglang_seer.draft.bus.assembly import Assembler
from sglang_seer.draft.bus.deltas import Deltas, deltas, stacked
from sglang_seer.draft.bus.history import History
from sglang_seer.draft.bus.links import BEAT_S, Link, Writer
from sglang_seer.draft.bus.protocol import Traffic
from sglang_seer.draft.bus.wire import pack, text_frames

VOCAB_SIZE = 50
GROUPS = st.integers(0, 2)
WRITERS = st.integers(0, 1)
TOKENS = st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=6)
Text = dict[tuple[int, int], list[int]]


@dataclass
class Wire:
    """Messages under way in both directions of a link."""

    to_reader: list[bytes] = field(default_factory=list)
    to_writer: list[bytes] = field(default_factory=list)


class LinkMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.now_s = 0.0
        self.traffic = Traffic()
        self.assembler = Assembler(vocab_size=VOCAB_SIZE, patience_s=float("inf"))
        self.reader_version = 0
        self.senders = itertools.count(10)
        self.versions = [0, 0]
        self.truth: list[Text] = [{}, {}]
        self.ended: list[dict[tuple[int, int], int]] = [{}, {}]
        self.writers = [self.new_writer(0), self.new_writer(0)]
        self.wires = [Wire(), Wire()]
        self.links = [Link(1, 0, self.assembler.known, self.traffic) for _ in range(2)]
        self.delivered: Text = {}
        self.lengths: list[tuple[int, int]] = []

    def new_writer(self, version: int) -> Writer:
        return Writer(next(self.senders), version, History(1 << 20), Traffic())

    def subscribed(self) -> set[int]:
        return set(self.assembler.groups)

    @rule(writer=WRITERS, group=GROUPS, request=st.integers(0, 1), tokens=TOKENS, ends=st.booleans())
    def generate(self, writer: int, group: int, request: int, tokens: list[int], ends: bool) -> None:
        # Requests of two writers differ, as a request runs on one engine at a time.
        key = (group, 2 * request + writer)
        if key in self.ended[writer]:
            return
        text = self.truth[writer].setdefault(key, [])
        new = stacked([(*key, len(text), tokens, ends)])
        text += tokens
        if ends:
            self.ended[writer][key] = len(text)
        for _, message in self.writers[writer].publish(new, self.now_s):
            self.wires[writer].to_reader.append(message)

    @rule(groups=st.lists(GROUPS, min_size=1, unique=True))
    def subscribe(self, groups: list[int]) -> None:
        for group in groups:
            self.assembler.follow(group)
        for link in self.links:
            link.subscribe(groups)

    @precondition(lambda self: self.subscribed())
    @rule(data=st.data())
    def unsubscribe(self, data: st.DataObject) -> None:
        group = data.draw(st.sampled_from(sorted(self.subscribed())))
        self.assembler.forget(group)
        for link in self.links:
            link.unsubscribe([group])
        self.delivered = {key: text for key, text in self.delivered.items() if key[0] != group}
        self.lengths = [one for one in self.lengths if one[0] != group]

    @rule(writer=WRITERS)
    def new_weights(self, writer: int) -> None:
        self.versions[writer] += 1
        self.writers[writer].drop_version(self.versions[writer])
        self.truth[writer], self.ended[writer] = {}, {}

    @rule(writer=WRITERS)
    def restart(self, writer: int) -> None:
        """Another engine at the same address: it knows neither readers nor text."""
        self.versions[writer] += 1
        self.writers[writer] = self.new_writer(self.versions[writer])
        self.truth[writer], self.ended[writer] = {}, {}

    @rule(writer=WRITERS)
    def follow_weights(self, writer: int) -> None:
        if self.versions[writer] != self.reader_version:
            self.reader_version = self.versions[writer]
            self.assembler.restart()
            for link in self.links:
                link.drop_version(self.reader_version)
            self.delivered, self.lengths = {}, []

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        for link, wire in zip(self.links, self.wires, strict=True):
            link.tick(self.now_s)
            wire.to_writer += link.outgoing
            link.outgoing.clear()

    @rule(data=st.data(), fate=st.sampled_from(["deliver", "deliver", "deliver", "drop", "repeat", "corrupt"]))
    def move(self, data: st.DataObject, fate: str) -> None:
        """One message, any one of those under way."""
        lanes = [lane for wire in self.wires for lane in (wire.to_reader, wire.to_writer) if lane]
        if not lanes:
            return
        lane = data.draw(st.sampled_from(lanes))
        place = data.draw(st.integers(0, len(lane) - 1))
        message = lane[place] if fate == "repeat" else lane.pop(place)
        if fate == "drop":
            return
        if fate == "corrupt":
            bit = data.draw(st.integers(0, 8 * len(message) - 1))
            changed = bytearray(message)
            changed[bit // 8] ^= 1 << bit % 8
            message = bytes(changed)
        (writer,) = (i for i, wire in enumerate(self.wires) if lane is wire.to_reader or lane is wire.to_writer)
        if lane is self.wires[writer].to_reader:
            self.receive(writer, message)
        else:
            self.answer(writer, message)

    @rule()
    def flow(self) -> None:
        """All that is under way arrives in order, and so do the answers."""
        for _ in range(2):
            for writer, wire in enumerate(self.wires):
                there, wire.to_writer = wire.to_writer, []
                for message in there:
                    self.answer(writer, message)
                there, wire.to_reader = wire.to_reader, []
                for message in there:
                    self.receive(writer, message)

    @rule(writer=WRITERS, reader=st.booleans())
    def cut(self, writer: int, reader: bool) -> None:
        """All that is under way in one direction is lost."""
        lane = self.wires[writer].to_reader if reader else self.wires[writer].to_writer
        lane.clear()

    @rule(writer=WRITERS, group=st.integers(0, 4), version=st.integers(0, 3), tokens=TOKENS)
    def strangers_text(self, writer: int, group: int, version: int, tokens: list[int]) -> None:
        """Text of other weights, of groups that nobody asked for, or of tokens that do not exist."""
        if version == self.reader_version and group in self.subscribed():
            tokens = [*tokens, VOCAB_SIZE]
        (frame,) = text_frames(version, 99, stacked([(group, 0, 0, tokens, True)]))
        dropped = self.traffic.dropped.total() + self.assembler.dropped.total()
        self.receive(writer, pack(frame))
        assert self.traffic.dropped.total() + self.assembler.dropped.total() == dropped + 1

    def receive(self, writer: int, message: bytes) -> None:
        new = self.links[writer].on_message(message, self.now_s)
        if new is not None:
            self.deliver(self.assembler.add(new, self.now_s))

    def answer(self, writer: int, message: bytes) -> None:
        for _, reply in self.writers[writer].on_message(b"reader", message, self.now_s):
            self.wires[writer].to_reader.append(reply)

    def deliver(self, new: Deltas) -> None:
        for group, request, offset, piece in zip(
            new.groups.tolist(), new.requests.tolist(), new.offsets.tolist(), new.pieces(), strict=True
        ):
            text = self.delivered.setdefault((group, request), [])
            assert offset == len(text), "a hole or a repetition was delivered"
            text += piece.tolist()
        self.lengths += [(group, length) for group, _, length in self.assembler.finished]
        self.assembler.finished = []

    @invariant()
    def what_was_delivered_is_true(self) -> None:
        for (group, request), text in self.delivered.items():
            assert group in self.subscribed()
            writer = request % 2
            if self.versions[writer] == self.reader_version:
                assert text == self.truth[writer].get((group, request), [])[: len(text)]

    @rule()
    def heal(self) -> None:
        """From here on nothing is lost: what a perfect memory has is here soon."""
        for _ in range(8):
            self.wait(1.1 * BEAT_S)
            self.flow()
        wanted: Text = {}
        lengths = []
        for writer in range(2):
            if self.versions[writer] == self.reader_version:
                wanted |= {key: text for key, text in self.truth[writer].items() if key[0] in self.subscribed()}
                ended = self.ended[writer].items()
                lengths += [(key[0], length) for key, length in ended if key[0] in self.subscribed()]
        current = {key for key in self.delivered if self.versions[key[1] % 2] == self.reader_version}
        assert {key: self.delivered[key] for key in current} == wanted
        if self.versions == [self.reader_version] * 2:
            assert sorted(self.lengths) == sorted(lengths)
        assert not self.assembler.incomplete() or self.versions != [self.reader_version] * 2

    def teardown(self) -> None:
        if hasattr(self, "links"):
            self.heal()


TestLinkMachine = LinkMachine.TestCase
TestLinkMachine.settings = settings(deadline=None, max_examples=200, stateful_step_count=50)


def lost_frame() -> tuple[Writer, Link, Assembler, list[bytes]]:
    """A link whose first frame of text was lost; a second one is under way."""
    assembler = Assembler(vocab_size=VOCAB_SIZE)
    assembler.follow(1)
    link = Link(1, 0, assembler.known, Traffic())
    link.subscribe([1])
    link.tick(0.0)
    writer = Writer(2, 0, History(1000), Traffic())
    for message in link.outgoing:
        writer.on_message(b"r", message, 0.0)
    link.outgoing.clear()
    writer.publish(deltas([1], [7], [0], [3], [1, 2, 3]), 0.0)
    return writer, link, assembler, [data for _, data in writer.publish(deltas([1], [7], [3], [1], [4]), 0.0)]


def test_a_missing_number_is_asked_for_and_nothing_else_is_sent_twice() -> None:
    writer, link, assembler, (second,) = lost_frame()
    held = link.on_message(second, 0.1)
    assert held is not None
    assert len(assembler.add(held, 0.1)) == 0
    assert assembler.incomplete() == [1]
    link.tick(1.0)
    replies = [reply for message in link.outgoing for _, reply in writer.on_message(b"r", message, 1.0)]
    texts = [new for reply in replies if (new := link.on_message(reply, 1.0)) is not None]
    delivered = [assembler.add(new, 1.0) for new in texts]
    assert np.concatenate([new.tokens for new in delivered]).tolist() == [1, 2, 3, 4]
    assert assembler.incomplete() == []
    assert link._traffic.repairs == 1


def test_a_lost_last_frame_is_found_by_the_beat() -> None:
    writer, link, assembler, _ = lost_frame()
    for now_s in (1.0, 2.0):
        link.tick(now_s)
        out, link.outgoing = link.outgoing, []
        for message in out:
            for _, reply in writer.on_message(b"r", message, now_s):
                new = link.on_message(reply, now_s)
                if new is not None:
                    assembler.add(new, now_s)
    assert assembler.known(1) == {7: 4}


def test_a_silent_reader_is_forgotten() -> None:
    writer, _, _, _ = lost_frame()
    assert writer.num_readers == 1
    assert writer.publish(deltas([1], [7], [4], [1], [5]), 100.0) == []
    assert writer.num_readers == 0


def converse(link: Link, writer: Writer, now_s: float) -> list[Deltas]:
    """One tick of the reader and the writer's answers, all of which arrive."""
    link.tick(now_s)
    out, link.outgoing = link.outgoing, []
    replies = [reply for message in out for _, reply in writer.on_message(b"r", message, now_s)]
    return [new for reply in replies if (new := link.on_message(reply, now_s)) is not None]


def test_a_lost_interest_is_stated_again() -> None:
    writer, link, _, _ = lost_frame()
    converse(link, writer, 1.0)
    link._known = lambda group: {}
    writer.publish(deltas([2], [1], [0], [2], [1, 2]), 1.0)
    link.subscribe([2])
    link.outgoing.clear()
    found = [new for step in range(4) for new in converse(link, writer, 2.0 + step)]
    assert 2 in {group for new in found for group in new.groups.tolist()}


def test_another_engine_at_the_address_learns_what_is_wanted() -> None:
    _, link, _, _ = lost_frame()
    first = Writer(2, 0, History(1000), Traffic())
    for step in range(4):
        converse(link, first, 1.0 + step)
    second = Writer(3, 0, History(1000), Traffic())
    second.publish(deltas([1], [9], [0], [2], [5, 6]), 5.0)
    found = [new for step in range(4) for new in converse(link, second, 6.0 + step)]
    assert found[0].tokens.tolist() == [5, 6]


def test_text_of_other_weights_is_neither_sent_nor_used() -> None:
    writer, link, _, (second,) = lost_frame()
    link.drop_version(1)
    assert link.on_message(second, 0.1) is None
    assert link._traffic.dropped == {"stale": 1}
    assert [new for step in range(3) for new in converse(link, writer, 1.0 + step)] == []
    assert writer._traffic.sent_tokens == 4  # what was sent before
    writer.drop_version(1)
    writer.publish(deltas([1], [7], [0], [1], [8]), 5.0)
    (new,) = [new for step in range(3) for new in converse(link, writer, 6.0 + step)]
    assert new.tokens.tolist() == [8]
