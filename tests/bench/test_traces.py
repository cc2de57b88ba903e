"""Trace files as groups of segments, and their tokens."""

from pathlib import Path

import numpy as np
import pytest

from bench.draft import tokens
from bench.draft.traces import Segment, TraceGroup, TraceSet, read_file, read_folder
from tests.bench import traces_of


def test_lines_are_groups(tmp_path: Path) -> None:
    lines = traces_of.rows(3, 4)
    one = read_file(traces_of.write(tmp_path / "small.jsonl.zst", lines))
    assert one.name == "small"
    assert [(g.prompt, len(g.responses)) for g in one.groups] == [(line["prompt"], 4) for line in lines]
    assert one.groups[1].responses[2] == [Segment(lines[1]["responses"][2], generated=True)]


def test_lines_of_one_group_and_prompt_are_joined(tmp_path: Path) -> None:
    first, second, other = traces_of.rows(3, 2)
    second["prompt"] = other["prompt"] = first["prompt"]
    for line, group in ((first, "a"), (second, "a"), (other, "b")):
        line["group"] = group
    one = read_file(traces_of.write(tmp_path / "grouped.jsonl.zst", [first, second, other]))
    assert [len(group.responses) for group in one.groups] == [4, 2]


def test_without_the_key_equal_prompts_stay_apart(tmp_path: Path) -> None:
    first, second = traces_of.rows(2, 2)
    second["prompt"] = first["prompt"]
    assert len(read_file(traces_of.write(tmp_path / "apart.jsonl.zst", [first, second])).groups) == 2


def test_only_the_assistants_turns_are_generated(tmp_path: Path) -> None:
    turns = [{"role": "user", "text": "hello"}, {"role": "assistant", "text": "hi"}, {"role": "tool", "text": "42"}]
    line = {"prompt": "system", "responses": ["hi"], "group": "task-1", "turns": [turns]}
    one = read_file(traces_of.write(tmp_path / "agent.jsonl.zst", [line]))
    (response,) = one.groups[0].responses
    assert [segment.text for segment in response if segment.generated] == ["hi"]
    assert "".join(segment.text for segment in response) == "\n\nuser: hello\n\nassistant: hi\n\ntool: 42"


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '{"responses": []}',
        '{"prompt": 3, "responses": []}',
        '{"prompt": "a", "responses": [1]}',
        '{"prompt": "a", "responses": ["b"], "turns": [[{"text": "b"}]]}',
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = traces_of.write(tmp_path / "bad.jsonl.zst", ['{"prompt": "a", "responses": ["b"]}', line])
    with pytest.raises(ValueError, match=r"bad\.jsonl\.zst, line 2: "):
        read_file(path)


def test_what_is_no_zstd_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "plain.jsonl.zst").write_text("{}")
    with pytest.raises(ValueError, match=r"plain\.jsonl\.zst: not a zstd file"):
        read_folder(tmp_path)


def test_a_folder_without_traces_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="saw none"):
        read_folder(tmp_path)


@pytest.fixture
def one() -> TraceSet:
    groups = [
        TraceGroup(line["prompt"], [[Segment(text, generated=True)] for text in line["responses"]])
        for line in traces_of.rows(8, 5)
    ]
    return TraceSet("small", groups)


def test_tokens_spell_the_text_and_are_never_zero(one: TraceSet, tmp_path: Path) -> None:
    tokenizer = tokens.tokenizer_of([one], most_chars=10**6, cache=tmp_path)
    segments = [Segment("the cat", True), Segment(" <filler> and", False), Segment(" sät!", True)]
    group = tokens.encode("on a mat", [segments, [Segment("nothing", False)]], tokenizer)
    (response,) = group.responses
    assert tokenizer.decode(response.tokens.tolist()) == "the cat <filler> and sät!"
    assert tokenizer.decode(response.tokens[response.generated].tolist()) == "the cat sät!"
    assert tokenizer.decode(group.prompt.tolist()) == "on a mat"
    assert 0 not in response.tokens


def test_the_tokenizer_is_kept_by_the_hash_of_its_texts(one: TraceSet, tmp_path: Path) -> None:
    first = tokens.tokenizer_of([one], most_chars=10**6, cache=tmp_path)
    (kept,) = tmp_path.iterdir()
    changed = kept.stat().st_mtime_ns
    assert tokens.tokenizer_of([one], most_chars=10**6, cache=tmp_path).to_str() == first.to_str()
    assert kept.stat().st_mtime_ns == changed
    tokens.tokenizer_of([TraceSet("other", one.groups[:3])], most_chars=10**6, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_groups_are_taken_until_there_are_enough_tokens(one: TraceSet, tmp_path: Path) -> None:
    tokenizer = tokens.tokenizer_of([one], most_chars=10**6, cache=tmp_path)
    every = tokens.groups_of(one, tokenizer, tokens=10**9, siblings=5)
    assert len(every) == 8
    wanted = sum(group.generated_tokens for group in every[:3])
    some = tokens.groups_of(one, tokenizer, tokens=wanted, siblings=5)
    assert [group.prompt.tolist() for group in some] == [group.prompt.tolist() for group in every[:3]]
    few = tokens.groups_of(one, tokenizer, tokens=wanted, siblings=2)
    assert {len(group.responses) for group in few} == {2}
    assert not np.array_equal(few[0].prompt, tokens.groups_of(one, tokenizer, tokens=1, siblings=2, seed=1)[0].prompt)
