"""What maps of several budgets would cost: one dry run of geodeform each, as rows and as HTML.

Nothing here needs QGIS.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .command import build_arguments, read_results, run_program

if TYPE_CHECKING:
    from .command import Feedback

DEFAULT_BUDGETS = "0.5%, 1%, 1.5%, 3%, 6%"


@dataclass(frozen=True)
class BudgetRow:
    """What a map of one budget would cost.

    Attributes:
        budget: The budget, as it was asked for.
        windows: Windows that would be predicted.
        window_h: Height of a window in scene pixels.
        window_w: Width of a window in scene pixels.
        sample_h: Rows of samples in a window.
        sample_w: Columns of samples in a window.
        sampler: ``learned``, ``uniform`` or ``interpolation``.
        sampled_share: Sampled pixels over the mapped pixels, in percent.
        sampled_pixels: Pixels that the network would see.
        seconds: Estimated time.
        memory_mib: Estimated peak memory in MiB.
        device: Where the estimate was made.
    """

    budget: str
    windows: int
    window_h: int
    window_w: int
    sample_h: int
    sample_w: int
    sampler: str
    sampled_share: float
    sampled_pixels: int
    seconds: float
    memory_mib: float
    device: str


def plan_budgets(
    program: Sequence[str],
    scene: str,
    budgets: Sequence[str],
    options: Mapping[str, Any],
    feedback: Feedback,
    *,
    environ: Mapping[str, str],
) -> list[BudgetRow]:
    """Ask geodeform what each budget would cost.

    Args:
        program: Words that start geodeform.
        scene: Path or GDAL name of the scene.
        budgets: As ``--budget`` takes them.
        options: Other options of ``geodeform segment``, see :func:`build_arguments`.
        feedback: Gets messages and progress.
        environ: The child's environment.

    Returns:
        One row a budget, in the order given.

    Raises:
        Cancelled: If the user cancelled.
        CommandError: If geodeform fails; the message is its own.
    """
    rows = []
    for number, budget in enumerate(budgets):
        asked = {**options, "budget": budget, "dry-run": True}
        words = [*program, *build_arguments("segment", scene, asked)]
        finished = run_program(words, feedback, environ=environ)
        rows.append(_row(budget, read_results(finished)[0]))
        feedback.setProgress(100 * (number + 1) / len(budgets))
    return rows


def _row(budget: str, planned: Mapping[str, Any]) -> BudgetRow:
    return BudgetRow(
        budget=budget,
        windows=planned["windows"],
        window_h=planned["window"][0],
        window_w=planned["window"][1],
        sample_h=planned["sample_size"][0],
        sample_w=planned["sample_size"][1],
        sampler=planned["sampler"],
        sampled_share=100 * planned["sampled_share"],
        sampled_pixels=planned["sampled_pixels"],
        seconds=planned["estimated_seconds"],
        memory_mib=planned["estimated_memory_bytes"] / 2**20,
        device=planned["device"],
    )


def budgets_html(rows: Sequence[BudgetRow], scene: str) -> str:
    """Return the rows as a page for QGIS's results viewer.

    Args:
        rows: At least one.
        scene: Name of the scene, for the heading.
    """
    headings = ("Budget", "Windows", "Samples a window", "Sampled", "Pixels", "Time", "Memory")
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    body = "".join(
        f"<tr><td>{html.escape(row.budget)}</td><td>{row.windows:,}</td>"
        f"<td>{row.sample_h}x{row.sample_w}</td><td>{row.sampled_share:.2f} %</td>"
        f"<td>{row.sampled_pixels:,}</td><td>{format_seconds(row.seconds)}</td>"
        f"<td>{row.memory_mib:,.0f} MiB</td></tr>\n"
        for row in rows
    )
    first = rows[0]
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>geodeform: budgets</title><style>
body {{ font-family: sans-serif; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: 3px 12px; border-bottom: 1px solid #bbb; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
</style></head><body>
<h1>Budgets for {html.escape(scene)}</h1>
<table><thead><tr>{head}</tr></thead><tbody>
{body}</tbody></table>
<p>Windows of {first.window_h}x{first.window_w} px, {html.escape(first.sampler)} sampling, on
{html.escape(first.device)}. Time and memory are estimates from a few windows of the scene, without
polygons.</p>
</body></html>
"""


def format_seconds(seconds: float) -> str:
    """A duration in the unit that people would choose.

    >>> format_seconds(4.2), format_seconds(200), format_seconds(9000)
    ('4 s', '3 min 20 s', '2 h 30 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{max(1, whole)} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
