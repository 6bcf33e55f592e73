"""Checks of an HTML report: whole, and needing no other file and no network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from geodeform.doctor.findings import Finding, counted, error, listed, ok, warning

# what a browser fetches by itself; a link that a reader clicks is none of it
_FETCHED = {
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src",),
    "image": ("href", "xlink:href"),
    "img": ("src", "srcset"),
    "input": ("src",),
    "link": ("href",),
    "object": ("data",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "track": ("src",),
    "use": ("href", "xlink:href"),
    "video": ("src", "poster"),
}
_STYLE_URL = re.compile(r"""(?:url\(\s*|@import\s+)["']?([^"')\s;]+)""", re.IGNORECASE)
_REMOTE = re.compile(r"^(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
_INSIDE = ("#", "data:", "blob:", "about:")


class _Resources(HTMLParser):
    """Collects what a page makes a browser fetch."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self.closed = False
        self._styling = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._styling = tag == "style"
        names = _FETCHED.get(tag, ())
        for name, value in attrs:
            if value is None:
                continue
            if name in names:
                self._add(*(part.split()[0] for part in value.split(",") if part.split())
                          if name == "srcset" else (value,))  # fmt: skip
            elif name == "style":
                self._add(*_STYLE_URL.findall(value))

    def handle_endtag(self, tag: str) -> None:
        self._styling = False
        self.closed |= tag == "html"

    def handle_data(self, data: str) -> None:
        if self._styling:
            self._add(*_STYLE_URL.findall(data))

    def _add(self, *addresses: str) -> None:
        self.found += [a.strip() for a in addresses if not a.strip().startswith(_INSIDE)]


def check_report(path: Path) -> Iterator[Finding]:
    """Check that an HTML file is whole and self-contained."""
    page = _Resources()
    page.feed(path.read_text("utf-8", errors="replace"))
    page.close()
    if not page.closed:
        yield error(
            "report.truncated",
            f"{path.name} ends before </html>: it is cut off.",
            "Copy or make it again.",
        )
    remote = [address for address in page.found if _REMOTE.match(address)]
    local = [a for a in page.found if not _REMOTE.match(a) and a]
    if remote:
        yield warning(
            "report.external",
            f"{path.name} fetches {counted(len(remote), 'file')} from the network "
            f"({listed(remote, most=2)}): offline it is incomplete, and each view tells others "
            "who reads it.",
            "Make it self-contained: embed scripts, styles and pictures.",
        )
    gone = [a for a in local if not (path.parent / re.split(r"[?#]", a)[0]).exists()]
    if gone:
        yield error(
            "report.missing-file",
            f"{path.name} shows {listed(gone, most=3)}, which is not there.",
            "Put the files back beside it, or embed them.",
        )
    elif local:
        yield warning(
            "report.not-self-contained",
            f"{path.name} needs {counted(len(local), 'other file')} beside it "
            f"({listed(local, most=3)}), which are lost when it is sent by mail.",
            "Embed them.",
        )
    if not page.found and page.closed:
        yield ok("report.self-contained", "Whole and self-contained.")
