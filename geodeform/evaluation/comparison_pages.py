"""Pages of a comparison's report: one document of sections, written as HTML and as Markdown.

Nothing is said here: what is in the document is in both pages, in the same order, with the same
numbers of tables and figures.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.metadata import version
from importlib.resources import files

import matplotlib
from matplotlib.figure import Figure as Picture
from PIL import Image

_SVG_BYTES = 400_000  # a larger drawing is put into the page as pixels
_DPI = 180


@dataclass(frozen=True)
class Strong:
    """A cell that stands out."""

    text: str


Text = str | Strong
Rows = Sequence[Sequence[Text]]


@dataclass(frozen=True)
class Paragraph:
    """Sentences."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list, a sentence or a few each."""

    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    """Words for a terminal."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of text under a head.

    Attributes:
        title: What it shows, without a full stop at its end.
        head: One text a column.
        groups: (what its rows have in common, rows), "" where there is only one group.
        group_head: What the groups differ in, such as "Samples".
        note: Sentences on how to read it.
        words: Whether all columns hold words, not numbers.
        brief: What a terminal says of it beside the title, a phrase; pages have the note.
    """

    title: str
    head: Sequence[str]
    groups: Sequence[tuple[str, Rows]]
    group_head: str = ""
    note: str = ""
    words: bool = False
    brief: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes:
        title: What it shows, without a full stop at its end.
        caption: Sentences.
        picture: matplotlib's, or a PNG's bytes.
        drawing: Whether it is lines and text, not photographs.
    """

    title: str
    caption: str
    picture: Picture | bytes
    drawing: bool = True


Part = Paragraph | Bullets | Code | Table | Figure


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        title: Its heading.
        opening: What stands before the first section.
        sections: In order.
    """

    title: str
    opening: Sequence[Part]
    sections: Sequence[Section] = field(default_factory=tuple)

    def pictures(self) -> list[Figure]:
        """All figures, in order."""
        parts = [*self.opening, *(part for section in self.sections for part in section.parts)]
        return [part for part in parts if isinstance(part, Figure)]


def html_page(document: Document) -> str:
    """The document as one HTML page that loads nothing."""
    tables, figures = _numbers("Table"), _numbers("Figure")

    def shown(part: Part) -> str:
        match part:
            case Paragraph(text):
                return f"<p>{escape(text)}</p>"
            case Bullets(items):
                return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"
            case Code(text):
                return f"<pre><code>{escape(text)}</code></pre>"
            case Table():
                return _html_table(part, next(tables))
            case Figure():
                return _html_figure(part, next(figures))

    def body(parts: Sequence[Part]) -> str:
        return "\n".join(shown(part) for part in parts)

    opening = body(document.opening)
    sections = "\n".join(
        f'<section id="part-{k}" aria-labelledby="title-{k}">\n'
        f'<h2 id="title-{k}">{escape(section.title)}</h2>\n{body(section.parts)}\n</section>'
        for k, section in enumerate(document.sections, 1)
    )
    contents = "\n".join(
        f'<li><a href="#part-{k}">{escape(section.title)}</a></li>'
        for k, section in enumerate(document.sections, 1)
    )
    folder = files("geodeform") / "data"
    slots = {
        "generator": escape(f"geodeform {version('geodeform')}"),
        "title": escape(document.title),
        "css": (folder / "report.css").read_text(encoding="utf-8")
        + (folder / "comparison.css").read_text(encoding="utf-8"),
        "opening": opening,
        "contents": contents,
        "sections": sections,
    }
    template = (folder / "comparison.html").read_text(encoding="utf-8")
    # one pass: what is filled in, such as a method called {{css}}, is not looked at again
    return re.sub(r"\{\{(\w+)\}\}", lambda slot: slots[slot[1]], template)


def markdown_page(document: Document, files: Sequence[str]) -> str:
    """The document as GitHub's Markdown.

    Args:
        document: What to write.
        files: Where its pictures lie, as seen from the page.
    """
    tables, figures, places = _numbers("Table"), _numbers("Figure"), iter(files)

    def shown(part: Part) -> str:
        match part:
            case Paragraph(text):
                return _paragraph(text)
            case Bullets(items):
                return "\n".join(f"- {_paragraph(item)}" for item in items)
            case Code(text):
                fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
                return f"{fence}sh\n{text}\n{fence}"
            case Table():
                return _markdown_table(part, next(tables))
            case Figure():
                name = f"{next(figures)}. {part.title}"
                picture = f"![{_plain(name)}]({next(places)})"
                return f"{picture}\n\n**{_plain(name)}.** {_plain(part.caption)}".rstrip()

    blocks = [f"# {_plain(document.title)}", *(shown(part) for part in document.opening)]
    for section in document.sections:
        blocks += [f"## {_plain(section.title)}", *(shown(part) for part in section.parts)]
    return "\n\n".join(blocks) + "\n"


def png(picture: Picture | bytes) -> bytes:
    """A picture as PNG, the same bytes each time."""
    return picture if isinstance(picture, bytes) else _drawn(picture, "png")


def _numbers(kind: str) -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield f"{kind} {number}"


def _drawn(picture: Picture, kind: str) -> bytes:
    stream = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    with matplotlib.rc_context({"svg.hashsalt": "geodeform"}):
        picture.savefig(stream, format=kind, dpi=_DPI, facecolor="white", metadata=metadata)
    return stream.getvalue()


def _html_figure(figure: Figure, number: str) -> str:
    picture, data, kind = figure.picture, b"", ""
    if figure.drawing and not isinstance(picture, bytes):
        data, kind = _drawn(picture, "svg"), "svg+xml"
    if not data or len(data) > _SVG_BYTES:
        data, kind = png(picture), "png"
    width, height = (round(96 * side) for side in _inches(picture))
    caption = f" {escape(figure.caption)}" if figure.caption else ""
    return (
        f'<figure><div class="scroll" tabindex="0" role="group" aria-label="{number}">'
        f'<img src="data:image/{kind};base64,{base64.b64encode(data).decode()}" '
        f'width="{width}" height="{height}" alt="{escape(figure.title)}"></div>\n'
        f"<figcaption><b>{number}. {escape(figure.title)}.</b>{caption}</figcaption></figure>"
    )


def _inches(picture: Picture | bytes) -> tuple[float, float]:
    """Width and height."""
    if isinstance(picture, bytes):
        width, height = Image.open(io.BytesIO(picture)).size
        return width / _DPI, height / _DPI
    width, height = picture.get_size_inches()
    return float(width), float(height)


def _html_table(table: Table, number: str) -> str:
    def row(cells: Sequence[Text]) -> str:
        first, *others = map(_html_text, cells)
        return f'<tr><th scope="row">{first}</th>{"".join(f"<td>{c}</td>" for c in others)}</tr>'

    bodies = []
    for name, rows in table.groups:
        heading = ""
        if table.group_head:
            heading = (
                f'<tr class="group"><th scope="rowgroup" colspan="{len(table.head)}">'
                f"<span>{escape(f'{table.group_head}: {name}')}</span></th></tr>\n"
            )
        bodies.append(f"<tbody>\n{heading}{chr(10).join(map(row, rows))}\n</tbody>")
    heads = "".join(f'<th scope="col">{escape(text)}</th>' for text in table.head)
    note = f" {escape(table.note)}" if table.note else ""
    kind = "words" if table.words else "numbers"
    title = escape(table.title)
    return (
        f'<p class="caption"><b>{number}. {title}.</b>{note}</p>\n'
        f'<div class="scroll" tabindex="0" role="group" aria-label="{title}">'
        f'<table class="{kind}" aria-label="{title}">\n<thead><tr>{heads}</tr></thead>\n'
        f"{chr(10).join(bodies)}\n</table></div>"
    )


def _html_text(text: Text) -> str:
    return f"<b>{escape(text.text)}</b>" if isinstance(text, Strong) else escape(text)


def _markdown_table(table: Table, number: str) -> str:
    head = list(table.head)
    rows = [[_markdown_text(cell) for cell in row] for _, rows in table.groups for row in rows]
    names = [_plain(name) for name, rows in table.groups for _ in rows]
    lines = [[_plain(text) for text in head], *rows]
    if table.group_head:
        lines = [[_plain(table.group_head), *lines[0]]] + [
            [name, *row] for name, row in zip(names, rows, strict=True)
        ]
    words = 2 if table.group_head else 1
    widths = [max(3, *(len(line[k]) for line in lines)) for k in range(len(lines[0]))]
    sides: list[Callable[[str, int], str]] = [
        str.ljust if table.words or k < words else str.rjust for k in range(len(widths))
    ]
    rule = [
        "-" * width if side is str.ljust else "-" * (width - 1) + ":"
        for width, side in zip(widths, sides, strict=True)
    ]
    drawn = [
        "| " + " | ".join(side(c, w) for c, w, side in zip(line, widths, sides, strict=True)) + " |"
        for line in (lines[0], rule, *lines[1:])
    ]
    note = f" {_plain(table.note)}" if table.note else ""
    return f"**{number}. {_plain(table.title)}.**{note}\n\n" + "\n".join(drawn)


def _markdown_text(text: Text) -> str:
    return f"**{_plain(text.text)}**" if isinstance(text, Strong) else _plain(text)


def _plain(text: str) -> str:
    r"""Text that Markdown shows as it is.

    >>> _plain("a_b | *c* <d>"), _plain("_a_ & &lt;")
    ('a_b \\| \\*c\\* \\<d\\>', '\\_a\\_ & \\&lt;')
    """
    flat = " ".join(text.split())
    return re.sub(r"([\\`*\[\]<>|~$]|(?<!\w)_|_(?!\w)|&(?=#?\w+;))", r"\\\1", flat)


def _paragraph(text: str) -> str:
    r"""The same at the start of a line, where some signs begin a list or a heading.

    >>> _paragraph("- a"), _paragraph("1. b"), _paragraph("-0.2 c")
    ('\\- a', '1\\. b', '-0.2 c')
    """
    return re.sub(r"^(?:([-+#=])(?=[\s#=-]|$)|(\d+)([.)])(?=\s))", _guarded, _plain(text))


def _guarded(start: re.Match[str]) -> str:
    return f"\\{start[1]}" if start[1] else f"{start[2]}\\{start[3]}"
