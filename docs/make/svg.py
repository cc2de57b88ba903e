"""A small drawing board for SVG that reads well on light and dark pages: it brings its own ground."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

# Light and dark, by the reader's setting. The ground is ours, so a page of the other kind does no harm.
_STYLE = """\
.ground{fill:#ffffff;stroke:#d0d7de}.panel{fill:#f3f5f8}.ink{fill:#1f2328}.soft{fill:#59636e}
.edge{stroke:#8c959f;fill:none}.faint{stroke:#d0d7de;fill:none}.tip{fill:#8c959f}
.blue{fill:#3b82d0}.orange{fill:#d9822b}.green{fill:#2f9e62}.purple{fill:#8a63d2}.red{fill:#cf4a4a}.grey{fill:#b4bcc6}
.l-blue{stroke:#3b82d0}.l-orange{stroke:#d9822b}.l-green{stroke:#2f9e62}.l-red{stroke:#cf4a4a}.l-purple{stroke:#8a63d2}
.pale{opacity:.32}.on{fill:#ffffff}
text{font-family:system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;font-size:13px}
.mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:12px;white-space:pre}
.title{font-size:15px;font-weight:600}.small{font-size:11.5px}
@media (prefers-color-scheme:dark){
.ground{fill:#0d1117;stroke:#30363d}.panel{fill:#171d26}.ink{fill:#e6edf3}.soft{fill:#9aa4af}
.edge{stroke:#7d8590}.faint{stroke:#30363d}.tip{fill:#7d8590}.grey{fill:#4b5563}
.blue{fill:#4a93e6}.orange{fill:#e0913f}.green{fill:#3fb573}.purple{fill:#9b7ae0}.red{fill:#e06060}
.l-blue{stroke:#4a93e6}.l-orange{stroke:#e0913f}.l-green{stroke:#3fb573}.l-red{stroke:#e06060}.l-purple{stroke:#9b7ae0}
.on{fill:#0d1117}}"""

Point = tuple[float, float]


class Board:
    """Shapes in the order in which they are drawn. Classes are those of the style; sizes are in pixels."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img">\n<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n'
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" class="tip"/></marker></defs>\n'
        )
        self._shapes: list[str] = []
        self.rect(0.5, 0.5, width - 1, height - 1, "ground", round_px=8)

    def rect(self, x: float, y: float, width: float, height: float, kind: str, *, round_px: float = 4) -> None:
        place = f'x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" rx="{_n(round_px)}"'
        self._shapes.append(f'<rect {place} class="{kind}"/>')

    def circle(self, x: float, y: float, radius: float, kind: str) -> None:
        self._shapes.append(f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}" class="{kind}"/>')

    def text(self, x: float, y: float, said: str, kind: str = "ink", *, anchor: str = "start") -> None:
        """The baseline's start, middle or end is at the point."""
        self._shapes.append(
            f'<text x="{_n(x)}" y="{_n(y)}" class="{kind}" text-anchor="{anchor}">{escape(said)}</text>'
        )

    def lines(self, x: float, y: float, said: Sequence[str], kind: str = "soft small", *, step: float = 17) -> None:
        for place, line in enumerate(said):
            self.text(x, y + place * step, line, kind)

    def path(
        self, points: Sequence[Point], kind: str = "edge", *, width: float = 1.5, tip: bool = False, dash: str = ""
    ) -> None:
        drawn = "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in points)
        more = ' marker-end="url(#tip)"' if tip else ""
        more += f' stroke-dasharray="{dash}"' if dash else ""
        self._shapes.append(f'<path d="{drawn}" class="{kind}" fill="none" stroke-width="{_n(width)}"{more}/>')

    def svg(self) -> str:
        return self._head + "\n".join(self._shapes) + "\n</svg>\n"


def _n(value: float) -> str:
    """Without digits that nobody sees, and that differ between machines."""
    return f"{value:.1f}".removesuffix(".0")
