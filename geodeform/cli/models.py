"""``geodeform models``: what the packaged and the trained models are, and files of them for others.

``list`` and ``show`` read headers only, without torch.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from geodeform.classes import to_hex
from geodeform.cli.console import Reporter, class_line, output_console, print_json
from geodeform.cli.options import OutputType, SizeType, json_option, overwrite_option
from geodeform.errors import ConfigError, GeodeformError, ModelFileError
from geodeform.geo.outputs import OutputSet, final_path
from geodeform.models.model_file import PACKAGED, locate_model, read_spec
from geodeform.models.spec import ARCHITECTURES, ModelSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from geodeform.models.export import ExportReport

Size = tuple[int, int]

_FILE_NAME = "model.safetensors"  # what training calls a model
_RUNS = Path("runs")  # where training puts its folders
_EXPORT_SUFFIXES = (".onnx", ".pt2")  # of geodeform.models.export, which needs torch
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # BatchNorm's, not learned


@click.group("models", short_help="List, describe and export models.")
def command() -> None:
    """List the packaged and the trained models, describe one, or export one for other software."""


# ---- list ----------------------------------------------------------------------------------------


@command.command("list", short_help="List the packaged models and those below a folder.")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@json_option
def list_command(folder: Path | None, as_json: bool) -> None:
    """List the packaged models and every model.safetensors below FOLDER.

    FOLDER is runs/ where it is not given, if that exists. Files that are no models are reported,
    and the exit code is 1 if there are any.
    """
    if folder is not None and not folder.is_dir():
        raise ModelFileError(f"There is no folder {folder}; give one that holds training runs.")
    where = folder or _RUNS
    paths = sorted(where.rglob(_FILE_NAME))
    if folder is not None and not paths:
        click.echo(f"Note: there is no {_FILE_NAME} below {folder}.", err=True)
    found: list[dict[str, Any]] = [_entry(name, name) for name in PACKAGED]
    reporter = Reporter(quiet=False)
    for path in paths:
        run = path.parent.relative_to(where)
        name = str(run) if run.parts else path.parent.resolve().name
        try:
            found.append(_entry(name, path))
        except (GeodeformError, OSError) as error:
            found.append({"path": str(path), "error": reporter.failure(str(path), error)})
    if as_json:
        print_json({"models": found})
    else:
        _print_list([entry for entry in found if "error" not in entry])
    if any("error" in entry for entry in found):
        sys.exit(1)


def _entry(name: str, model: str | Path) -> dict[str, Any]:
    """A model as the list has it, JSON-ready."""
    spec = read_spec(model)
    with locate_model(model) as path:
        return {
            "name": name,
            "packaged": model in PACKAGED,
            "path": str(path),
            "architecture": spec.architecture,
            "downsampler": spec.downsampler,
            "sampler": spec.sampler,
            "classes": list(spec.classes.names),
            "window_px": list(spec.window_px),
            "sample_size": list(spec.sample_size),
            "val_miou": val_miou(spec),
        }


def val_miou(spec: ModelSpec) -> float | None:
    """Full-resolution mIoU of the last validation with the model's own sampler, 0…1, if known."""
    figures = spec.metrics.get(spec.sampler)
    value = figures.get("val_miou") if isinstance(figures, Mapping) else None
    return float(value) if isinstance(value, (int, float)) else None


def _print_list(found: list[dict[str, Any]]) -> None:
    table = Table(box=box.SIMPLE)
    right = ("classes", "window", "samples", "val mIoU")
    for heading in ("name", "architecture", "downsampler/sampler", *right, "path"):
        table.add_column(
            heading, justify="right" if heading in right else "left", no_wrap=heading == "name"
        )
    for one in found:
        row = (
            one["name"],
            one["architecture"],
            f"{one['downsampler']}/{one['sampler']}",
            str(len(one["classes"])),
            _by(one["window_px"]),
            _by(one["sample_size"]),
            "" if one["val_miou"] is None else f"{one['val_miou']:.1%}",
            "packaged" if one["packaged"] else one["path"],
        )
        table.add_row(*(Text(cell) for cell in row))  # as Text: brackets are not markup here
    console = output_console()
    console.print(table)
    console.print(Text("geodeform models show NAME|FILE tells everything about one."))


# ---- show ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Weights:
    """What the header of a model file says about its tensors."""

    file_bytes: int
    parameters: int
    types: tuple[str, ...]


@command.command("show", short_help="Tell everything about a model.")
@click.argument("model", metavar="NAME|FILE")
@click.option("--recipe", is_flag=True, help="Print only the training recipe, as YAML.")
@json_option
def show_command(model: str, recipe: bool, as_json: bool) -> None:
    """Tell everything about a model: a packaged name (dubai) or a .safetensors file.

    Its recipe can be trained again: geodeform models show dubai --recipe > again.yaml
    """
    spec = read_spec(model)
    if recipe:
        _print_recipe(model, spec, as_json=as_json)
        return
    with locate_model(model) as path:
        weights = _read_weights(path)
        if as_json:
            told = {
                "path": str(path),
                "file_bytes": weights.file_bytes,
                "parameters": weights.parameters,
                "weights": list(weights.types),
                **json.loads(spec.to_json()),
            }
            print_json(told)
        else:
            _print_model(model, spec, weights)


def _print_recipe(model: str, spec: ModelSpec, *, as_json: bool) -> None:
    if not spec.recipe:
        raise ConfigError(
            f"{model} holds no recipe: whatever wrote it stored none; see its training data and "
            "metrics with geodeform models show."
        )
    if as_json:
        print_json(spec.recipe)
    else:
        click.echo(_yaml(spec.recipe), nl=False)


def _read_weights(path: Path) -> _Weights:
    from safetensors import safe_open

    parameters, types = 0, set()
    with safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 — no mapping, though it looks like one
            part = file.get_slice(name)
            if not name.endswith(_BUFFERS):
                parameters += math.prod(part.get_shape())
                types.add(part.get_dtype())
    return _Weights(path.stat().st_size, parameters, tuple(sorted(types)))


def _print_model(model: str, spec: ModelSpec, weights: _Weights) -> None:
    console = output_console()
    what = ARCHITECTURES.get(spec.architecture, "segmentation_models_pytorch")
    console.print(Text.assemble((model, "bold"), f"  {spec.architecture}: {what}"))
    if spec.description:
        console.print(Text(spec.description))
    console.print(Text("\nclasses", style="bold"))
    for number, (name, colour) in enumerate(
        zip(spec.classes.names, spec.classes.colours, strict=True)
    ):
        console.print(class_line(console, number, name, to_hex(colour)))
    for heading, lines in _sections(spec, weights):
        console.print(Text(f"\n{heading}", style="bold"))
        for line in lines:
            console.print(Padding(Text(line), (0, 0, 0, 2), expand=False))


def _sections(spec: ModelSpec, weights: _Weights) -> Iterator[tuple[str, list[str]]]:
    """Headings and lines under them."""
    gsd = "unknown" if spec.gsd_m is None else f"{spec.gsd_m:g} m"
    ground = "" if spec.window_m is None else f" ({spec.window_m[0]:g} x {spec.window_m[1]:g} m)"
    yield (
        "input",
        [
            f"bands {', '.join(spec.bands)}, values 0 to {spec.scaling.max_value:g}",
            f"ground sampling distance {gsd}",
            f"window {_by(spec.window_px)} px{ground}, height x width",
        ],
    )
    trained = ", ".join(_by(budget) for budget in spec.budgets)
    yield (
        "sampling",
        [
            f"downsampler {spec.downsampler}; samplers {', '.join(spec.samplers)} "
            f"(default {spec.sampler}, {spec.sample_mode})",
            f"samples {_by(spec.sample_size)} a window"
            + (f", trained with {trained}" if trained else ""),
            f"low-resolution view {_by(spec.low_res_size)}; kernel of {spec.kernel_sigma:g} px, "
            f"cut at {spec.kernel_support:g} sigma, {spec.kernel_padding} padding",
        ],
    )
    yield (
        "training",
        [
            spec.training_data or "unknown data",
            "recipe stored, see --recipe" if spec.recipe else "no recipe stored",
        ],
    )
    yield "licence", [spec.licence or "unknown"]
    if spec.metrics:
        yield "metrics", _yaml(spec.metrics).rstrip().splitlines()
    yield (
        "file",
        [
            f"{weights.file_bytes / 1e6:.1f} MB, {weights.parameters:,} parameters "
            f"({', '.join(weights.types)}), written by geodeform "
            f"{spec.geodeform_version or '(version unknown)'}"
        ],
    )


def _yaml(values: Mapping[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True))


# ---- export --------------------------------------------------------------------------------------


@command.command(
    "export",
    short_help="Write a model as ONNX or torch.export, checked.",
    epilog="Example: geodeform models export dubai -o dubai.onnx",
)
@click.argument("model", metavar="NAME|FILE")
@click.option(
    "-o",
    "--output",
    required=True,
    type=OutputType(*_EXPORT_SUFFIXES),
    metavar="FILE",
    help="File to write: .onnx, or .pt2 for torch.export.",
)
@click.option(
    "--window",
    type=SizeType(),
    metavar="HxW",
    help="Windows that the file takes, in pixels. [default: the model's]",
)
@click.option(
    "--size",
    type=SizeType(),
    metavar="HxW",
    help="Samples of a window. [default: the model's budget, in proportion to the window]",
)
@overwrite_option
def export_command(
    model: str, output: Path, window: Size | None, size: Size | None, overwrite: bool
) -> None:
    """Write a model as one file that runs without geodeform.

    It takes any number of windows of one size, as raw band values, and gives the probabilities at
    the samples, the grid of where they lie, and the density. Before it appears, its answers are
    compared with the model's on two cuts of the packaged scene. ONNX needs pip install
    'geodeform[export]'.
    """
    with OutputSet(overwrite=overwrite, inputs=[model]) as outputs:
        staged = outputs.add(output, suffixes=_EXPORT_SUFFIXES)
        # torch is imported here, when work begins
        from geodeform.models.export import export_model
        from geodeform.models.model_file import load_model

        network = load_model(model)
        Reporter(quiet=False).banner(f"{network.name}, {network.spec.architecture}", "CPU")
        windows = _real_windows(network.spec, window or network.spec.window_px)
        report = export_model(network, staged, window=window, size=size, check=windows)
    _print_report(report, network.spec)


def _real_windows(spec: ModelSpec, window: Size) -> NDArray[np.float32]:
    """Two cuts (2, C, H, W) of the packaged scene, its bands in turn, on the model's scale."""
    import numpy as np
    import rasterio
    from rasterio.windows import Window

    from geodeform.demo import demo_scene

    height, width = window
    with rasterio.open(demo_scene()) as scene:
        bands = [index % scene.count + 1 for index in range(spec.in_channels)]
        # A window that is larger than the scene shows all of it, enlarged.
        rows, columns = min(height, scene.height), min(width, scene.width)
        cuts = [
            scene.read(
                bands,
                window=Window(
                    share * (scene.width - columns), share * (scene.height - rows), columns, rows
                ),
                out_shape=(len(bands), height, width),
            )
            for share in (0.25, 0.6)
        ]
    return np.stack(cuts).astype(np.float32) * (spec.scaling.max_value / 255)


def _print_report(report: ExportReport, spec: ModelSpec) -> None:
    from geodeform.models.export import OPSET

    (H, W), (h, w), (hd, wd) = report.window, report.size, report.low_res
    kind = f"ONNX, opset {OPSET}" if report.format == "onnx" else "torch.export"
    click.echo(f"{final_path(report.path)}  {kind}, {report.file_bytes / 1e6:.1f} MB")
    click.echo(
        f"  image         (B, {spec.in_channels}, {H}, {W}) float32, raw values 0 to "
        f"{spec.scaling.max_value:g} of {', '.join(spec.bands)}; B is any number"
    )
    click.echo(f"  probabilities (B, {spec.n_classes}, {h}, {w}) at the samples")
    click.echo(f"  grid          (B, {h}, {w}, 2) where they lie: x, y of -1 to 1, edge to edge")
    click.echo(f"  density       (B, 1, {hd}, {wd}), sums to 1")
    told = ", ".join(f"{name} {value:.1g}" for name, value in report.differences.items())
    click.echo(
        f"  checked by {report.runtime} on {report.checked} windows of the packaged scene; "
        f"largest difference from the model: {told}"
    )


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
