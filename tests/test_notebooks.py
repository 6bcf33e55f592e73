"""The notebooks run from top to bottom, and show what they say; they are kept without outputs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
PICTURES = ["budget.png", "charts.png", "hero.jpg", "warp.jpg"]
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def _run(name: str, folder: Path, **wanted: str) -> tuple[NotebookNode, dict[str, Any]]:
    """Execute a notebook in a folder of its own; return it and the values of some expressions."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    asking = "import json; print(json.dumps({" + ", ".join(
        f"{key!r}: {expression}" for key, expression in wanted.items()
    )
    notebook.cells.append(nbformat.v4.new_code_cell(asking + "}))"))
    # warnings of the notebook's own cells are errors; libraries deprecate things every month
    strict = "import warnings; warnings.filterwarnings('error', module='__main__')"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(strict))
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return notebook, json.loads(notebook.cells[-1].outputs[-1]["text"])


def _pictures(notebook: NotebookNode) -> int:
    return sum(
        "image/png" in output.get("data", {})
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )


def _complaints(notebook: NotebookNode) -> list[str]:
    """Lines of stderr that are warnings."""
    text = "\n".join(
        output["text"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "stream" and output["name"] == "stderr"
    )
    # tqdm's of a missing ipywidgets, and of the affine package's new operator, are not ours
    return [
        line
        for line in text.splitlines()
        if "Warning" in line and not re.search("IProgress|Use `@` matmul", line)
    ]


@pytest.fixture(autouse=True)
def _calm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")


def test_all_four_notebooks_are_there() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for number, cell in enumerate(notebook.cells, 1):
        assert cell["id"] == f"{path.name[:2]}-{number:02d}"
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/home/|/Users/|/work/|/tmp/|/root/", text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_between_notebooks_lead_somewhere(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (FOLDER / target).is_file()


def test_segment_a_scene(tmp_path: Path) -> None:
    notebook, told = _run(
        "01_segment_a_scene",
        tmp_path,
        shares="areas['share'].tolist()",
        polygon_area="float(polygons['area_m2'].sum())",
        pixel_area="float(areas['area_m2'].sum())",
        lakes="len(lakes)",
        nodata="float((part.labels == 255).mean())",
        darkest="by_class.idxmin()",
        layers="str(interactive.get_root().render()).count('data:image/webp')",
        pixels="list(small.labels.shape)",
    )
    assert _complaints(notebook) == []
    assert _pictures(notebook) == 6
    assert sum(told["shares"]) == pytest.approx(1)
    assert max(told["shares"]) < 0.7
    assert told["polygon_area"] == pytest.approx(told["pixel_area"], rel=1e-6)
    assert told["lakes"] > 5
    assert 0 < told["nodata"] < 0.2  # beyond the area of interest, which is turned a little
    assert told["darkest"] == "Water"
    assert told["layers"] == 4
    assert told["pixels"] == [1500, 1500]
    assert {path.name for path in (tmp_path / "output").iterdir()} >= {
        "golf_course.gpkg",
        "golf_course.tif",
        "golf_course_confidence.tif",
    }


def test_sampling_density_maps(tmp_path: Path) -> None:
    notebook, told = _run(
        "02_sampling_density_maps",
        tmp_path,
        contrast="high / low",
        ratios="shares.set_index('class_name')['ratio'].to_dict()",
        even="plot.class_shares(uniform, labels, classes=classes)['ratio'].tolist()",
        spacings="list(spacings.values())",
        labelled="float((burnt != 255).mean())",
    )
    assert _complaints(notebook) == []
    assert _pictures(notebook) == 7
    assert told["contrast"] > 1.5
    assert told["ratios"]["Land"] < 1 < told["ratios"]["Road"]
    assert told["even"] == pytest.approx([1] * 5, abs=0.05)
    assert told["spacings"] == sorted(told["spacings"], reverse=True)
    assert told["labelled"] > 0.9


@pytest.mark.slow
def test_train_on_your_own_labels(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    notebook, told = _run(
        "03_train_on_your_own_labels",
        tmp_path,
        losses="losses['train_segmentation'].tolist()",
        miou="spec.metrics[trained.sampler]['val_miou']",
        classes="list(spec.classes.names)",
        colours="[to_hex(c) for c in spec.classes.colours]",
        wanted="[to_hex(c) for c in packaged.colours]",
        found="len({int(v) for v in mine.labels.to_numpy()[::16, ::16].ravel()})",
    )
    assert _complaints(notebook) == []
    assert _pictures(notebook) == 3
    assert sum(told["losses"][-3:]) < 0.9 * sum(told["losses"][:3])
    assert told["miou"] > 0.15
    assert [name.lower() for name in told["classes"]] == [
        "building", "land", "road", "vegetation", "water"
    ]  # fmt: skip
    assert told["colours"] == told["wanted"]
    assert told["found"] >= 3


@pytest.mark.slow
def test_compare_budgets(tmp_path: Path) -> None:
    notebook, told = _run(
        "04_compare_budgets",
        tmp_path,
        table="table.fillna(-1).to_dict('list')",
    )
    table = told["table"]
    assert _complaints(notebook) == []
    assert _pictures(notebook) == 2
    assert table["sampler"] == ["learned by need"] * 4 + ["uniform"] * 4
    for first in (0, 4):  # more samples: a better map, and nearer to the largest budget's
        assert 0.3 < table["miou"][first] < table["miou"][first + 3] < 0.7
        agreement = table["agreement"][first : first + 4]
        assert agreement[:3] == sorted(agreement[:3])
        assert agreement[3] == -1


@pytest.mark.slow
def test_the_readmes_pictures_are_made(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-W", "error::UserWarning", FOLDER / "make_pictures.py", tmp_path],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "Agg"},
        timeout=600,
    )
    sizes = {}
    for path in sorted(tmp_path.iterdir()):
        with Image.open(path) as picture:
            sizes[path.name] = picture.size
            assert len(np.unique(np.asarray(picture.convert("L").resize((64, 64))))) > 30
        assert path.stat().st_size < 350_000
    assert list(sizes) == PICTURES
    assert all(abs(width - 1600) <= 1 for width, _ in sizes.values())


@pytest.mark.parametrize("name", PICTURES)
def test_the_readmes_pictures_are_kept(name: str) -> None:
    path = FOLDER / "pictures" / name
    assert path.stat().st_size < 350_000
    with Image.open(path) as picture:
        assert picture.width == 1600
