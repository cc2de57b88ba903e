"""Examples, links and quoted messages of README.md and docs/, and what is generated of them."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
import tomllib
import yaml
from transformers import AutoTokenizer

from docs.make import __main__ as make
from docs.make import advice, options, pictures
from sglang_seer.config import SeerConfig, parse_config
from sglang_seer.rollout.config import RolloutConfig
from tests.docs.pages import ROOT, Block, blocks, commands, pages
from tests.docs.place import SHORTER, Place, model

BLOCKS = [block for page in pages() for block in blocks(page)]


def blocks_of(language: str) -> list[Any]:
    return [pytest.param(one, id=f"{one.page}:{one.line}") for one in BLOCKS if one.language == language]


def shorter(text: str) -> str:
    for long, short in SHORTER.items():
        text = text.replace(long, short)
    return text


@pytest.mark.parametrize("block", blocks_of("json"))
def test_json_is_a_request_or_a_config(block: Block, place: Callable[[bool], Place]) -> None:
    value = json.loads(block.text)
    if "sampling_params" not in value:
        parse_config(block.text.strip())
        return
    answer = requests.post(place(True).url + "/generate", json=json.loads(shorter(block.text)), timeout=300)
    assert answer.status_code == 200, answer.text
    assert answer.json()["meta_info"]["completion_tokens"] > 0


@pytest.mark.parametrize("block", blocks_of("toml"))
def test_toml_is_a_config(block: Block, tmp_path: Path) -> None:
    (tmp_path / "seer.toml").write_text(block.text)
    config = parse_config(tmp_path / "seer.toml")
    assert msgspec.to_builtins(config).items() >= tomllib.loads(block.text).items()


@pytest.mark.parametrize("block", blocks_of("yaml"))
def test_yaml_is_a_router_file_or_a_scrape(block: Block) -> None:
    value = yaml.safe_load(block.text)
    if "router_class" in value:
        assert is_there(value["router_class"])
        RolloutConfig.of(value["seer"])
    else:
        (job,) = value["scrape_configs"]
        assert all(":" in target for target in job["static_configs"][0]["targets"])


@pytest.mark.parametrize("block", blocks_of("python"))
def test_python_runs(block: Block, place: Callable[[bool], Place]) -> None:
    here = place(True)
    code = shorter(here.real(block.text)).replace('"M"', repr(model()))
    if "sgl.Engine" in code:
        asked = 'print("said", len(engine.generate("2 + 2 =", {"max_new_tokens": 4})["output_ids"]))'
        assert "said 4" in here.python(f"{code}\n{asked}\nengine.shutdown()\n")
        return
    seen: list[Any] = []
    names = {"tokenizer": AutoTokenizer.from_pretrained(model()), "seen": seen}
    done = eval(
        compile(code.replace("...", "seen.append(sample)"), "example", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT),
        names,
    )
    asyncio.run(asyncio.wait_for(done, 400))
    assert sorted(sample.sample for sample in seen) == list(range(8))
    assert all(sample.output_ids for sample in seen)


# Not the fields of /server_info, which stand behind a dot.
DOTTED = re.compile(r"(?<!\.)\bsglang_seer(?:\.\w+)+")


def is_there(path: str) -> bool:
    """A module, or a name that its source defines or brings; without importing it, as it may need its framework."""
    module, _, name = path.rpartition(".")
    try:
        if importlib.util.find_spec(path) is not None:
            return True
    except ModuleNotFoundError:
        pass
    spec = importlib.util.find_spec(module)
    return spec is not None and re.search(rf"\b{name}\b", Path(str(spec.origin)).read_text()) is not None


def test_names_in_the_text_are_there() -> None:
    named = {found for page in pages() for found in DOTTED.findall(page.read_text())}
    assert len(named) > 3
    assert [name for name in sorted(named) if not is_there(name)] == []
    assert not is_there("sglang_seer.integrations.slime.generate_everything")


LINK = re.compile(r"\]\((?!https?://)([^)\s#]*)(?:#([\w-]+))?\)")


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def broken_links(page: Path) -> Iterator[str]:
    for target, anchor in LINK.findall(page.read_text()):
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            yield f"{page.name}: {target}#{anchor}"


def test_links_lead_somewhere(tmp_path: Path) -> None:
    assert [link for page in pages() for link in broken_links(page)] == []
    (tmp_path / "page.md").write_text("[a](nothing.md) [b](#here) [c](#there)\n# Here\n")
    assert list(broken_links(tmp_path / "page.md")) == ["page.md: nothing.md#", "page.md: #there"]


def test_every_page_is_linked_from_another() -> None:
    linked = {
        (page.parent / target).resolve() for page in pages() for target, _ in LINK.findall(page.read_text()) if target
    }
    assert [page.name for page in (ROOT / "docs").glob("*.md") if page.resolve() not in linked] == []


def said_messages(page: Path) -> list[str]:
    """First cells of tables whose head is `it says`."""
    found, quoting = [], False
    for line in page.read_text().splitlines():
        if not line.startswith("|"):
            quoting = False
        elif line.startswith("| it says"):
            quoting = True
        elif quoting:
            found += re.findall(r"`([^`]+)`", line.split("|")[1])
    return found


def test_messages_that_are_explained_are_still_said() -> None:
    """The fixed parts of each, between what varies."""
    sources = "\n".join(path.read_text() for path in (ROOT / "sglang_seer").rglob("*.py"))
    sources += "\n".join(path.read_text() for path in (ROOT / "patches").glob("*.py"))
    sources = re.sub(r'"\s*\n\s*f?"', "", sources)

    def is_said(message: str) -> bool:
        parts = [part.strip(" :();") for part in re.split(r"\.\.\.|\bX\b", message)]
        return all(part in sources for part in parts if len(part) > 3)

    messages = said_messages(ROOT / "docs" / "troubleshooting.md")
    assert len(messages) > 10
    assert [message for message in messages if not is_said(message)] == []
    assert not is_said("SGLang X is the wrong one")


def test_what_is_generated_is_current() -> None:
    assert [str(path.relative_to(ROOT)) for path in make.wanted()] == []


def test_a_page_that_was_edited_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Negative control of the test above."""
    shutil.copy(ROOT / "README.md", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("*.png", "make"))
    page = tmp_path / "docs" / "options.md"
    was = page.read_text()
    page.write_text(was.replace("`draft_nodes`", "`draft_knots`"))
    (tmp_path / "docs" / "images" / "tree.svg").unlink()
    assert make.main(["--check"], tmp_path) == 1
    assert "docs/options.md" in capsys.readouterr().out
    assert make.main([], tmp_path) == 0
    assert page.read_text() == was
    assert make.main(["--check"], tmp_path) == 0


def test_an_option_without_a_meaning_or_advice_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched, pytest.raises(ValueError, match=r"advice.*'bus'"):
        patched.delitem(advice.ENGINE, "bus")
        options.page()
    with monkeypatch.context() as patched, pytest.raises(ValueError, match=r"advice.*'knots'"):
        patched.setitem(advice.ENGINE, "knots", "never")
        options.page()

    class Undocumented(SeerConfig):
        """speculation: drafts."""

    with pytest.raises(ValueError, match=r"Undocumented in its docstring.*draft_nodes"):
        options.config_table(Undocumented, advice.ENGINE)


def test_every_environment_variable_is_explained() -> None:
    read = {
        name
        for folder in ("sglang_seer", "patches", "kernels")
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(r"\bSGLANG_SEER\w*", path.read_text())
    }
    assert read <= set(advice.ENVIRONMENT)
    assert set(advice.ENVIRONMENT) <= read


def test_every_argument_and_key_is_on_the_page() -> None:
    """By another way than the page is made: from the help texts and a config written as JSON."""
    page = (ROOT / "docs" / "options.md").read_text()
    keys = [*msgspec.to_builtins(SeerConfig()), *msgspec.to_builtins(RolloutConfig())]
    keys += [key for part in ("placement", "rules") for key in msgspec.to_builtins(RolloutConfig())[part]]
    assert [key for key in keys if f"| `{key}` |" not in page] == []
    for name in options.DOCUMENTED:
        usage = options.parser_of(importlib.import_module(options.COMMANDS[name][0]).main).format_usage()
        section = page.split(f"### `{name}`")[1].split("\n### ")[0]
        assert [word for word in re.findall(r"--[\w-]+", usage) if f"`{word}" not in section] == []


def test_pictures_are_well_formed_and_used() -> None:
    from xml.etree import ElementTree

    concepts = (ROOT / "docs" / "concepts.md").read_text()
    for name, drawing in pictures.drawings().items():
        root = ElementTree.fromstring(drawing)
        assert root.tag.endswith("svg") and "prefers-color-scheme:dark" in drawing
        assert f"images/{name}.svg" in concepts


def test_a_block_of_an_unknown_kind_is_an_error(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```perl\nprint 1\n```\n")
    with pytest.raises(ValueError, match="no such kind of block: 'perl'"):
        list(commands(page))
    page.write_text("```bash\necho 'never closed\n```\n")
    with pytest.raises(ValueError, match="does not end"):
        list(commands(page))


def test_commands_of_a_page() -> None:
    """By hand, what is found in a small page."""
    text = "`./run lint` and `SGLANG_SEER=on`\n```\nA=1 x --y \\\n  'a b'  # why\n\nc && d\n```\n`curl u | jq .`\n"
    path = Path("page.md")

    class Page(type(path)):  # type: ignore[misc]
        def read_text(self, *_: Any, **__: Any) -> str:
            return text

    found = list(commands(Page("page.md")))
    assert [(one.words, one.whole, one.line) for one in found] == [
        (["x", "--y", "a b"], True, 3),
        (["c"], True, 6),
        (["d"], True, 6),
        (["./run", "lint"], False, 1),
        (["curl", "u"], False, 8),
    ]
    assert found[0].environment == {"A": "1"}
