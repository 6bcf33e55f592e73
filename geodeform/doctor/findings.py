"""What an examination says: findings with a level, a code, a sentence and a remedy."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any


class Level(IntEnum):
    """How much a finding matters; larger is worse.

    Attributes:
        OK: A check that passed.
        HINT: Worth knowing; nothing is wrong.
        WARNING: Works, but not everywhere, or not as well as it could.
        ERROR: Wrong: readers fail, or show or measure something false.
    """

    OK = 0
    HINT = 1
    WARNING = 2
    ERROR = 3


@dataclass(frozen=True)
class Finding:
    """One thing that an examination found.

    Attributes:
        level: How much it matters.
        code: Short and stable, such as ``raster.not-cog``.
        message: One sentence: what is so, and why it matters.
        remedy: What to do about it, a ready command where there is one; "" where nothing.
    """

    level: Level
    code: str
    message: str
    remedy: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        return {
            "level": self.level.name.lower(),
            "code": self.code,
            "message": self.message,
            "remedy": self.remedy,
        }


@dataclass(frozen=True)
class Report:
    """What is known of one file, or of several files of one run together.

    Attributes:
        path: The file or folder.
        kind: What it is, such as ``class raster``.
        findings: Worst first; within a level in the order of the checks.
        facts: What the comparison with other files needs; not part of the JSON.
    """

    path: Path
    kind: str
    findings: tuple[Finding, ...]
    facts: Any = field(default=None, compare=False, repr=False)

    @property
    def worst(self) -> Level:
        """The worst level of all findings."""
        return max((finding.level for finding in self.findings), default=Level.OK)

    def count(self, level: Level) -> int:
        """Number of findings of a level."""
        return sum(finding.level == level for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "worst": self.worst.name.lower(),
            "findings": [finding.to_dict() for finding in self.findings],
        }


def report(path: Path, kind: str, findings: Iterable[Finding], facts: Any = None) -> Report:
    """Make a report, the worst findings first."""
    ordered = sorted(findings, key=lambda finding: -finding.level)
    return Report(path, kind, tuple(ordered), facts)


def ok(code: str, message: str) -> Finding:
    """A check that passed."""
    return Finding(Level.OK, code, message)


def hint(code: str, message: str, remedy: str = "") -> Finding:
    """Something worth knowing."""
    return Finding(Level.HINT, code, message, remedy)


def warning(code: str, message: str, remedy: str = "") -> Finding:
    """Something that works, but not everywhere or not well."""
    return Finding(Level.WARNING, code, message, remedy)


def error(code: str, message: str, remedy: str = "") -> Finding:
    """Something that is wrong."""
    return Finding(Level.ERROR, code, message, remedy)


def listed(items: Iterable[Any], *, most: int = 5) -> str:
    """The first few items, with commas, and how many more there are.

    >>> listed(range(8), most=3)
    '0, 1, 2 and 5 more'
    """
    words = [str(item) for item in items]
    rest = len(words) - most
    return ", ".join(words[:most]) + (f" and {rest} more" if rest > 0 else "")


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """A number with its noun.

    >>> counted(1, "polygon"), counted(2500, "polygon")
    ('1 polygon', '2,500 polygons')
    """
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def quoted(path: Path) -> str:
    """A path as a shell takes it in a remedy's command.

    >>> quoted(Path("my map.tif"))
    "'my map.tif'"
    """
    return shlex.quote(str(path))
