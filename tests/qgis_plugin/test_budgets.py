from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from geodeform.qgis_plugin.budgets import budgets_html, plan_budgets
from geodeform.qgis_plugin.command import CommandError, child_environment

from .conftest import FakeFeedback

PLANNED = {
    "windows": 25, "window": [1024, 512], "sample_size": [79, 40], "sampler": "learned",
    "sampled_pixels": 79000, "sampled_share": 0.0097, "estimated_seconds": 1.4,
    "estimated_memory_bytes": 1276 * 2**20, "device": "CPU <2 threads>",
}  # fmt: skip


def test_a_row_a_budget_in_their_order(fake_program: Callable[..., Path], tmp_path: Path) -> None:
    program = fake_program(result=PLANNED)
    feedback = FakeFeedback()
    rows = plan_budgets(
        [str(program)], "s.tif", ["1%", "128"], {"bands": ["1"]}, feedback,
        environ=child_environment(os.environ),
    )  # fmt: skip
    assert [row.budget for row in rows] == ["1%", "128"]
    assert (rows[0].window_h, rows[0].window_w, rows[0].sample_h, rows[0].sample_w) == (
        1024, 512, 79, 40,
    )  # fmt: skip
    assert rows[0].sampled_share == pytest.approx(0.97)
    assert rows[0].memory_mib == 1276
    assert feedback.progress == [50, 100]
    assert json.loads((tmp_path / "argv.json").read_text()) == [
        "segment", "--json", "--bands=1", "--budget=128", "--dry-run", "--", "s.tif",
    ]  # fmt: skip
    page = budgets_html(rows, "a<b>.tif")
    assert "a&lt;b&gt;.tif" in page
    assert "CPU &lt;2 threads&gt;" in page
    assert "<td>79x40</td><td>0.97 %</td><td>79,000</td><td>1 s</td><td>1,276 MiB</td>" in page
    assert page.count("<tr>") == 3


def test_a_wrong_budget_is_geodeforms_error(fake_program: Callable[..., Path]) -> None:
    program = fake_program("sys.exit(print('Error: Cannot read it.', file=sys.stderr) or 2)")
    with pytest.raises(CommandError, match="Cannot read it"):
        plan_budgets([str(program)], "s.tif", ["x"], {}, FakeFeedback(), environ=os.environ)
