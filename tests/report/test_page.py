"""The page of a run as a file: complete, self-contained, escaped, the same each time."""

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sglang_seer.report import history, page
from sglang_seer.report.canvas import Chart
from sglang_seer.report.history import History, collect
from sglang_seer.rollout.events import Event, Start
from tests.report.run_files import A, assign, chunk, engine, finish, known_run, load, submit, write_run

PNG = b"\x89PNG\r\n\x1a\n"
ALL = ["requests", "engines", "decisions", "migrations", "groups", "acceptance"]


class Loads(HTMLParser):
    """Everything in a page that makes a browser load something, and every id."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            text = value or ""
            if name in ("src", "href", "xlink:href", "srcset", "data", "action") and not text.startswith(
                ("#", "data:")
            ):
                self.loads.append(f"{tag} {name}={text}")
            self.loads += [f"{tag} {name}: {url}" for url in re.findall(r"url\(([^)]*)\)", text) if url[0] != "#"]
            if name == "id":
                self.ids.append(text)


def parsed(html: str) -> Loads:
    loads = Loads()
    loads.feed(html)
    return loads


def run_of(*said: Event) -> History:
    return collect([Start(began_s=0.0, settings={}), *said], Path("run.jsonl"))


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> History:
    return history.read(write_run(tmp_path_factory.mktemp("run") / "run.jsonl", known_run()))


@pytest.fixture(scope="module")
def html(known: History) -> str:
    return html_of(known)


def html_of(run: History, baseline: History | None = None) -> str:
    return page.page(run, page.charts(run, baseline), baseline)


def test_it_needs_nothing_else(html: str) -> None:
    loads = parsed(html)
    assert loads.loads == []
    assert len(loads.ids) == len(set(loads.ids)) > 100
    assert "@import" not in html
    # Every reference within the page leads somewhere.
    wanted = {*re.findall(r'href="#([^"]+)"', html), *re.findall(r"url\(#([^)]+)\)", html)}
    assert len(wanted) > 20 and wanted <= set(loads.ids)


def test_what_would_be_loaded_is_seen() -> None:
    page = '<img src="x.png"><p style="background: url(http://a/b)"><a href="#x"><script src="//c"></script>'
    assert len(parsed(page).loads) == 3


def test_names_from_the_file_are_text(html: str) -> None:
    assert '"nothing"' not in html and "<none>" not in html
    assert "&lt;none&gt; &amp; &quot;nothing&quot;" in html
    evil = "</script><script>alert(1)</script>"
    html = html_of(run_of(submit(0, evil, 0), assign(0, evil, 0, evil, reason=evil), finish(3, evil, 0, 5)))
    assert html.count("<script>") == 1


def test_every_chart_has_axes_with_units(known: History) -> None:
    drawn = page.charts(known)
    assert [chart.name for chart in drawn] == ALL
    for chart in drawn:
        labels = [axes.get_xlabel() for axes in chart.figure.axes] + [axes.get_ylabel() for axes in chart.figure.axes]
        assert any("(s)" in label for label in labels), chart.name
        ElementTree.fromstring(chart.svg())


def tail_spans(chart: Chart) -> list[tuple[float, float]]:
    found = []
    for axes in chart.figure.axes:
        for patch in axes.patches:
            if patch.get_label() == "tail: only the last 10% of the samples run":
                box = patch.get_path().get_extents(patch.get_patch_transform())
                found.append((round(box.x0, 6), round(box.x1, 6)))
    return found


def test_the_tail_is_shaded(known: History) -> None:
    for chart in page.charts(known):
        if chart.name != "groups":
            assert set(tail_spans(chart)) == {(7.0, 10.0)}, chart.name
    unfinished = run_of(submit(0, "g", 0), submit(0, "g", 1), finish(3, "g", 0, 5))
    assert all(tail_spans(chart) == [] for chart in page.charts(unfinished))


def test_the_summary_stands_beside_the_baseline(known: History, html: str) -> None:
    assert "baseline" not in re.sub(r"<style>.*?</style>|<script>.*?</script>|<svg.*?</svg>", "", html, flags=re.S)
    slower = run_of(submit(0, "g", 0), chunk(0, 40, "g", 0, A, 80), finish(40, "g", 0, 80))
    html = html_of(known, slower)
    assert '<td>10.0</td><td>40.0</td><td>0.25x <span class="better">better</span></td>' in html
    assert "The baseline was asked for other samples" in html


def test_what_there_is_not_is_said() -> None:
    html = html_of(run_of(submit(0, "g", 0), submit(0, "g", 1), assign(0, "g", 0, A), finish(3, "g", 0, 5)))
    assert "1 samples have not ended in this file" in html
    assert "No draft was verified in this run." in html


@pytest.mark.parametrize(
    "said",
    [
        [submit(0, "g", 0)],
        [submit(0, "g", 0), finish(0, "g", 0, 0)],
        [submit(0, "g", 0), engine(0, A, "up"), engine(1, A, "down")],
        [submit(0, "g", 0), assign(0, "g", 0, A, reason="", expected=0.0), chunk(0, 0, "g", 0, A, 1, verify_steps=1)],
        [submit(0, "g", 0), load(1, A, 0), finish(2, "g", 0, 1)],
    ],
    ids=["nothing more", "no time", "no chunk", "no reason", "one token"],
)
def test_a_run_of_hardly_anything(said: list[Event]) -> None:
    html = html_of(run_of(*said), run_of(*said))
    assert parsed(html).loads == []


def many_engines() -> History:
    names = [f"http://10.0.0.{number}:30000" for number in range(20)]
    said = [submit(0, "g", number) for number in range(20)]
    for number, name in enumerate(names):
        said += [load(1, name, number), assign(0, "g", number, name), chunk(0, 3, "g", number, name, 9)]
    moved = assign(4, "g", 0, names[3], moved_from=names[0])
    return run_of(*said, moved, *(finish(5, "g", number, 9) for number in range(20)))


def test_many_engines_are_a_heat_map() -> None:
    drawn = {chart.name: chart for chart in page.charts(many_engines())}
    assert [axes.get_title(loc="left") for axes in drawn["engines"].figure.axes[:2]] == [
        "requests on each engine",
        "KV in use on each engine (blank: not known, or down)",
    ]
    assert "10.0.0.19:30000" in html_of(many_engines())


def test_two_pages_of_one_run_are_equal(known: History, html: str) -> None:
    assert html_of(known) == html


def test_page_and_charts_are_written(known: History, tmp_path: Path) -> None:
    paths = page.write(known, None, tmp_path / "page.html", tmp_path / "deep" / "charts")
    assert [path.name for path in paths] == ["page.html", *(f"{name}.png" for name in ALL)]
    assert all(path.read_bytes().startswith(PNG) for path in paths[1:])


def test_a_place_that_cannot_be_written(known: History, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.*wanted a place to write the report to"):
        page.write(known, None, tmp_path / "nowhere" / "page.html", tmp_path)
