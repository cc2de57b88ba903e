"""The page in a real browser: it renders, is silent on the console, and answers the pointer."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import numpy.typing as npt
import pytest

from sglang_seer.report import history, page
from tests.report.browser import Visit, visit
from tests.report.run_files import known_run, write_run

Pixels = npt.NDArray[np.uint8]
CHARTS = ["requests", "engines", "decisions", "migrations", "groups", "acceptance"]
RUNNING, TAIL = (0x2A, 0x6F, 0xB0), (0xF6, 0xDC, 0xC4)

# Says in the page where its charts are, and what they answer to a pointer in the middle of the first.
PROBE = """
const said = { boxes: {}, outputs: {} };
const first = document.querySelector("#requests svg").getBoundingClientRect();
const at = { clientX: first.left + 0.5 * first.width, clientY: first.top + 0.3 * first.height, bubbles: true };
document.querySelector("#requests figure").dispatchEvent(new PointerEvent("pointermove", at));
for (const section of document.querySelectorAll("section[id]")) {
  const box = section.querySelector("svg").getBoundingClientRect();
  said.boxes[section.id] = [box.left, box.top, box.right, box.bottom].map(Math.round);
  said.outputs[section.id] = section.querySelector("output").textContent;
}
document.querySelector("#requests figure").dispatchEvent(new PointerEvent("pointerleave"));
said.after = [...document.querySelectorAll("output")].map((one) => one.textContent).join("");
said.resources = performance.getEntriesByType("resource").map((one) => one.name).filter((one) => !/^data:/.test(one));
const told = document.createElement("pre");
told.id = "told";
told.textContent = JSON.stringify(said);
document.body.append(told);
"""


def with_script(html: str, script: str) -> str:
    return html.replace("</body>", f"<script>{script}</script></body>")


def pixels(picture: Path) -> Pixels:
    """[height, width, 3]"""
    return np.rint(matplotlib.image.imread(picture)[:, :, :3] * 255).astype(np.uint8)


def drawn_share(part: Pixels) -> float:
    """Share of the pixels that are not white."""
    return float((part < 250).any(axis=2).mean())


def share_of(part: Pixels, colour: tuple[int, int, int]) -> float:
    return float((np.abs(part.astype(int) - colour) <= 3).all(axis=2).mean())


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    run = history.read(write_run(folder / "run.jsonl", known_run()))
    return page.page(run, page.charts(run, run), run)


@pytest.fixture(scope="module")
def seen(html: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    folder = tmp_path_factory.mktemp("browser")
    (folder / "page.html").write_text(with_script(html, PROBE))
    yield visit(folder / "page.html", folder)


def told(seen: Visit) -> dict[str, Any]:
    (text,) = re.findall(r'<pre id="told">(.*?)</pre>', seen.dom, flags=re.DOTALL)
    found: dict[str, Any] = json.loads(text.replace("&amp;", "&").replace("&lt;", "<"))
    return found


def test_nothing_on_the_console(seen: Visit) -> None:
    assert seen.console == []


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("undefinedFunction();", "undefinedFunction is not defined"),
        ('JSON.parse("{");', "SyntaxError"),
        ("const plots = 1;", "already been declared"),
    ],
)
def test_a_script_error_is_seen(html: str, script: str, expected: str, tmp_path: Path) -> None:
    """Negative control: the same page with an error."""
    (tmp_path / "page.html").write_text(with_script(html, script))
    (line,) = visit(tmp_path / "page.html", tmp_path).console
    assert expected in line


def test_the_page_asks_no_host(seen: Visit) -> None:
    assert told(seen)["resources"] == []


@pytest.mark.parametrize(
    "element", ['<script src="{}"></script>', '<link rel="stylesheet" href="{}">', '<img src="{}">']
)
def test_what_is_asked_for_is_seen(html: str, element: str, tmp_path: Path) -> None:
    """Negative control: the same page with something to load."""
    asking = html.replace("<body>", "<body>" + element.format("http://nowhere.invalid/x"))
    (tmp_path / "page.html").write_text(with_script(asking, f'window.addEventListener("load", () => {{ {PROBE} }});'))
    assert told(visit(tmp_path / "page.html", tmp_path))["resources"] == ["http://nowhere.invalid/x"]


def test_every_chart_is_drawn(seen: Visit) -> None:
    shot, boxes = pixels(seen.screenshot), told(seen)["boxes"]
    assert list(boxes) == CHARTS
    for name, (left, top, right, bottom) in boxes.items():
        part = shot[top:bottom, left:right]
        assert right - left > 900 and bottom - top > 100, name
        assert 0.02 < drawn_share(part) < 0.9, name
        assert len(np.unique(part.reshape(-1, 3), axis=0)) > 50, name
    for name in ("requests", "engines"):
        left, top, right, bottom = boxes[name]
        assert share_of(shot[top:bottom, left:right], RUNNING) > 0.03, name
        assert share_of(shot[top:bottom, left:right], TAIL) > 0.03, name


def test_an_empty_chart_is_seen(html: str, tmp_path: Path) -> None:
    """Negative control: charts whose drawing is gone are white."""
    hollow = re.sub(r"(<svg[^>]*>).*?</svg>", r"\1</svg>", html, flags=re.DOTALL)
    (tmp_path / "page.html").write_text(with_script(hollow, PROBE))
    visited = visit(tmp_path / "page.html", tmp_path)
    shot = pixels(visited.screenshot)
    for left, top, right, bottom in told(visited)["boxes"].values():
        assert drawn_share(shot[top:bottom, left:right]) < 0.02


def test_a_pointer_shows_the_same_moment_in_all_charts(seen: Visit) -> None:
    outputs = told(seen)["outputs"]
    moment = float(outputs["requests"].split(" s:")[0])
    assert 4.0 < moment < 5.0
    assert "running 2, waiting 1, unfinished in the baseline 3" in outputs["requests"]
    assert all(text.startswith(f"{moment:.1f} s:") for text in outputs.values())
    # KV of the first engine as it said at 3 s.
    assert "KV % 80" in outputs["engines"]
    assert told(seen)["after"] == ""
