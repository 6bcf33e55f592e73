"""What goes along with finished maps: QGIS styles and project, STAC items, the HTML report.

Everything here reads outputs at their staged paths and writes others beside them, before the run's
:class:`geodeform.geo.outputs.OutputSet` publishes all of them together.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from geodeform.geo.outputs import final_path
from geodeform.geo.qgis_project import map_layers, scene_layer, write_project
from geodeform.geo.scene import Scaling
from geodeform.geo.stac import ModelFacts, relative_href, write_model_stac, write_stac
from geodeform.geo.style import (
    scene_style,
)
from geodeform.result import RunFacts
from geodeform.run import PathLike, Run


def write_run_project(
    path: Path, staged: Mapping[str, Path], run: Run, source: object
) -> list[str]:
    """Write the QGIS project of a run.

    Args:
        path: Where to write it, staged.
        staged: The run's outputs by kind, at their staged paths.
        run: The run.
        source: What was mapped; the project has a layer of it where it is a file.

    Returns:
        Names of layers that QGIS could not place and that were left out; normally none.
    """
    plan, spec = run.plan, run.network.spec
    scene = None
    if isinstance(source, str | Path):
        bands = run.scene.bands
        scene = scene_layer(source, scene_style(bands, _ranges(plan.scaling, len(bands))))
    return write_project(
        path,
        map_layers(staged, spec.classes, scene=scene),
        title=f"Land cover of {Path(plan.scene).stem}",
        crs=plan.crs,
        abstract=f"Made by geodeform with the model {run.network.name or 'in memory'}: "
        f"{plan.sampler} sampling, budget {plan.budget}, {plan.share:.2%} of the pixels.",
    )


def _ranges(scaling: Scaling, n_bands: int) -> list[tuple[float, float]]:
    """Raw values of each band that the model sees as 0 and as 1."""
    offsets, scales = (
        values * n_bands if len(values) == 1 else values
        for values in (scaling.offset, scaling.scale)
    )
    # a constant band has a scale of 0
    return [(a, a + (1 / s if s else 1.0)) for a, s in zip(offsets, scales, strict=True)]


def model_item_path(path: PathLike) -> Path:
    """Where the STAC item of the model lies, beside that of the map.

    >>> model_item_path("maps/scene.json").name
    'scene_model.json'
    """
    return Path(path).with_name(f"{Path(path).stem}_model.json")


def write_run_stac(path: Path, staged: Mapping[str, Path], run: Run, source: object) -> None:
    """Write the STAC items of a run's map and of the model, one beside the other.

    Args:
        path: Where to write the map's, staged; the model's, if it was ever in a file, goes to
            :func:`model_item_path`.
        staged: The run's outputs by kind, at their staged paths.
        run: The run.
        source: What was mapped.
    """
    plan, network = run.plan, run.network
    item = None
    if network.file is not None:
        spec = network.spec
        item = model_item_path(path)
        write_model_stac(
            item,
            ModelFacts(
                name=network.name or spec.architecture,
                architecture=spec.architecture,
                classes=spec.classes,
                bands=spec.bands,
                window=plan.window_size,
                sample=plan.sample_size,
                max_value=spec.scaling.max_value,
                mean=spec.scaling.mean,
                std=spec.scaling.std,
                gsd=spec.gsd_m,
                framework_version=torch.__version__,
                parameters=sum(p.numel() for p in network.parameters()),
                licence=spec.licence,
                training_data=spec.training_data,
                hyperparameters={"sampler": plan.sampler, "budget": str(plan.budget)},
            ),
            href=relative_href(network.file, final_path(path).absolute().parent),
        )
    write_stac(
        path,
        assets={kind: file for kind, file in staged.items() if kind != "stac"},
        scene=source if isinstance(source, str | Path) else None,
        model_item=item,
    )


def report_facts(facts: RunFacts) -> dict[str, str]:
    """What a run cost, for the table of its report."""
    skipped = f", {facts.windows_skipped} without data skipped" if facts.windows_skipped else ""
    return {
        "Windows": f"{facts.windows}{skipped}",
        "Pixels sampled": f"{facts.sampled_pixels:,} ({facts.sampled_share:.2%})",
        "Time": f"{facts.seconds:.1f} s",
        "Peak memory": f"{facts.peak_memory_bytes / 2**20:,.0f} MiB",
        "Device": facts.device,
    }
