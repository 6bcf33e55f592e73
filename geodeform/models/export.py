"""One file that predicts windows without geodeform: ONNX, or the ``.pt2`` of torch.export.

``image`` (B, C, H, W), float32, raw band values as the model's scenes have them → scaling → density
→ grid (equation 3, folds mended) → sampled image → segmenter → ``probabilities`` (B, n_classes, h,
w), ``grid`` (B, h, w, 2) and ``density`` (B, 1, hd, wd), for one shape of windows and any number of
them. The reverse map, from samples to pixels, is left to whoever runs it: ``grid`` is all it needs.

What is traced are the library's own functions, which leave out their shortcuts while a graph is
made (see :mod:`geodeform.deform.grid`). No file is published before its answers were compared with
the model's. The model's description, :meth:`ModelSpec.to_json`, travels in it under the same key as
in a model file: in ONNX's metadata, or as an extra file of the ``.pt2``.

References: https://pytorch.org/docs/stable/onnx_export.html, https://pytorch.org/docs/stable/export.html,
https://onnx.ai/onnx/operators/onnx__GridSample.html.
"""

from __future__ import annotations

import copy
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from geodeform.budget import Budget, view_size, within_sides
from geodeform.errors import ConfigError, GeodeformError, OutputError
from geodeform.models.deform_segmenter import DeformSegmenter, Prediction
from geodeform.models.model_file import METADATA_KEY
from geodeform.models.spec import ModelSpec, Size

Format = Literal["onnx", "torch"]

SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}
"""The formats that can be written, and what their files are called."""

OUTPUTS = ("probabilities", "grid", "density")
"""What an exported model returns, in this order."""

OPSET = 20
"""ONNX operator set of the files; GridSample is as F.grid_sample from 20 on."""

TOLERANCE: dict[str, float] = {"probabilities": 1e-3, "grid": 1e-4, "density": 1e-3}
"""Largest difference from the model's answers that a file may have.

Of probabilities in their own unit; of grids in normalised coordinates, that is 1/20 of a pixel in a
window of 1000; of densities as a share of their own value and the uniform one together."""

Runner = Callable[[NDArray[np.float32]], Sequence[NDArray[np.float32]]]


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how near its answers are to the model's.

    Attributes:
        path: The file.
        format: ``"onnx"`` or ``"torch"``.
        window: (H, W) of the windows that it takes.
        size: (h, w) samples of a window.
        low_res: (hd, wd) of the density.
        batch: Number of windows that it takes at once, or None for any number.
        runtime: What ran the file for the comparison, such as ``ONNX Runtime 1.23.0 (CPU)``.
        checked: Number of windows that were compared.
        differences: Largest difference from the model's answers by output, see :data:`TOLERANCE`.
        file_bytes: Size of the file.
    """

    path: Path
    format: Format
    window: Size
    size: Size
    low_res: Size
    batch: int | None
    runtime: str
    checked: int
    differences: Mapping[str, float]
    file_bytes: int


def export_model(
    model: DeformSegmenter,
    path: str | Path,
    *,
    format: Format | None = None,
    window: Size | None = None,
    size: Size | None = None,
    batch: int | None = None,
    check: NDArray[Any] | None = None,
) -> ExportReport:
    """Write a model as a file that runs without geodeform; it appears only once it is checked.

    Args:
        model: The model, on any device; it stays as it is. Its own sampler is exported.
        path: Where to write, ``.onnx`` or ``.pt2``; an existing file is replaced.
        format: ``"onnx"``, or ``"torch"`` for a ``.pt2``; what the suffix says where None.
        window: (H, W) of the windows that the file will take; the model's where None.
        size: (h, w) samples of each; where None the model's budget, in proportion to the window.
        batch: Number of windows that the file takes at once; any number where None.
        check: (B, C, H, W) raw band values of windows to compare the file's answers on, normally
            real ones. Where None, made-up blocks of colours, the same each time.

    Returns:
        What was written and compared.

    Raises:
        ConfigError: If the model samples by labels, or sizes or ``check`` do not fit.
        OutputError: If the suffix is another, the folder does not exist, the model cannot be
            traced, or the file's answers differ by more than :data:`TOLERANCE`; nothing is written.
        GeodeformError: If packages are missing that ONNX needs.
    """
    path = Path(path)
    kind = _format_of(path, format)
    if kind == "onnx":
        _import_onnx()
    chain = _chain(model, window, size)
    if batch is not None and batch < 1:
        raise ConfigError(f"batch must be at least 1 window, not {batch}.")
    windows = _made_up_windows(chain, 2) if check is None else _check_windows(check, chain)
    runs = _runs(windows, batch)
    # Before the trace: caches of constant matrices must hold true tensors, not the tracer's.
    expected = [_answers_of_the_model(chain, images) for images in runs]
    with _folder_beside(path) as folder:
        staged = folder / path.name
        write, runner_of = _TOOLS[kind]
        try:
            program = _trace(chain, _rows(windows, batch or 2), dynamic=batch is None)
            write(program, staged, model.spec.to_json())
        except RuntimeError as error:  # what torch's exporters raise for what they cannot express
            told = " ".join(str(error).split())[:200]
            raise OutputError(
                f"{path.name} was not written: '{model.spec.architecture}' cannot be exported in "
                f"this format ({told}); choose the other format or another segmenter."
            ) from error
        runner, runtime = runner_of(staged)
        differences = _compare(runner, runs, expected)
        _check_differences(path, runtime, differences)
        file_bytes = staged.stat().st_size
        staged.replace(path)
    return ExportReport(
        path=path,
        format=kind,
        window=chain.window,
        size=chain.size,
        low_res=chain.low_res,
        batch=batch,
        runtime=runtime,
        checked=len(windows),
        differences=differences,
        file_bytes=file_bytes,
    )


class _Chain(nn.Module):
    """Raw windows of one shape → probabilities, grid and density."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: DeformSegmenter, window: Size, size: Size, low_res: Size) -> None:
        super().__init__()
        self.model = model
        self.window, self.size, self.low_res = window, size, low_res
        scaling = model.spec.scaling
        self.max_value = scaling.max_value
        self.register_buffer("mean", torch.tensor(scaling.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(scaling.std).view(1, -1, 1, 1))

    def scale(self, image: Tensor) -> Tensor:
        """Raw values → network input, clipped to the model's range as scenes are."""
        scaled: Tensor = ((image / self.max_value).clamp(0, 1) - self.mean) / self.std
        return scaled

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, H, W) raw values → what :data:`OUTPUTS` says."""
        predicted: Prediction = self.model(self.scale(image), self.size, low_res=self.low_res)
        return predicted.logits.softmax(1), predicted.grid, predicted.density


def _chain(model: DeformSegmenter, window: Size | None, size: Size | None) -> _Chain:
    """A copy of the model on the CPU, with sizes that are checked and complete."""
    spec = model.spec
    if spec.downsampler == "oracle":
        raise ConfigError(
            "A model that samples where labels have edges cannot be exported, because nobody has "
            "labels of a new scene; export one whose downsampler is none, density, grid, resizer "
            "or fixed."
        )
    for name, value in (("window", window), ("size", size)):
        if value is not None and min(value) < 1:
            raise ConfigError(f"{name} must be at least 1 pixel a side, not {value[0]}x{value[1]}.")
    window = window or spec.window_px
    default_size, low_res = _sizes(spec, window)
    size = size or default_size
    own = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    return _Chain(own, window, size, low_res).eval()


def _sizes(spec: ModelSpec, window: Size) -> tuple[Size, Size]:
    """Samples and low-resolution view of a window, in proportion to the model's own window."""
    if spec.sizing == "sides":
        return within_sides(window, spec.sample_size), within_sides(window, spec.low_res_size)
    if window == spec.window_px:
        return spec.sample_size, spec.low_res_size
    budget = Budget("window", math.prod(spec.sample_size))
    size = budget.sample_size(
        window, full_window=spec.window_px, windows=1, scene_pixels=math.prod(window)
    )
    return size, view_size(spec.low_res_size, window, spec.window_px)


def _format_of(path: Path, wanted: Format | None) -> Format:
    for kind, suffix in SUFFIXES.items():
        if path.suffix.lower() == suffix and wanted in (None, kind):
            return kind
    suffixes = [SUFFIXES[wanted]] if wanted else list(SUFFIXES.values())
    raise OutputError(
        f"Cannot write {path}: its suffix must be {' or '.join(suffixes)}"
        f"{'' if wanted else ' (ONNX or torch.export)'}."
    )


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """A folder on the file system of ``path``, so that the last step is a rename; then removed."""
    if not path.parent.is_dir():
        raise OutputError(
            f"The folder {path.parent} is not there; make it before exporting {path.name}."
        )
    try:
        holder = tempfile.TemporaryDirectory(prefix=".geodeform-", dir=path.parent)
    except OSError as error:
        raise OutputError(
            f"Cannot write {path}: no file can be made in {path.parent} ({error.strerror})."
        ) from error
    with holder as folder:
        yield Path(folder)


# ---- windows to compare on -----------------------------------------------------------------------


def _check_windows(check: NDArray[Any], chain: _Chain) -> NDArray[np.float32]:
    bands, (height, width) = chain.model.spec.in_channels, chain.window
    if check.ndim != 4 or len(check) == 0 or check.shape[1:] != (bands, height, width):
        raise ConfigError(
            f"The windows to check on must be (B, {bands}, {height}, {width}), got "
            f"{tuple(check.shape)}."
        )
    windows = check.astype(np.float32)
    if not np.isfinite(windows).all():
        raise ConfigError("The windows to check on hold values that are not finite.")
    return windows


def _made_up_windows(chain: _Chain, count: int) -> NDArray[np.float32]:
    """Blocks of random colours over all the range, with a little noise."""
    generator = torch.Generator().manual_seed(0)
    bands, size = chain.model.spec.in_channels, chain.window
    blocks = torch.rand(count, bands, 12, 12, generator=generator)
    noise = torch.rand(count, bands, *size, generator=generator)
    windows = 0.9 * F.interpolate(blocks, size=size, mode="nearest") + 0.1 * noise
    return (windows * chain.max_value).numpy()


def _rows(windows: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """``count`` windows, repeated in turn where there are fewer."""
    return windows[np.arange(count) % len(windows)]


def _runs(windows: NDArray[np.float32], batch: int | None) -> list[NDArray[np.float32]]:
    """Batches that bring every window to a file of any (None) or one number of windows."""
    if batch is None:
        return [windows, windows[:1]] if len(windows) > 1 else [windows, _rows(windows, 2)]
    return [_rows(windows[i:], batch) for i in range(0, len(windows), batch)]


# ---- comparison ----------------------------------------------------------------------------------


def _answers_of_the_model(chain: _Chain, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """What the library itself says, by the way that training and evaluation take."""
    with torch.no_grad():
        scaled = chain.scale(torch.from_numpy(images))
        found = chain.model(scaled, chain.size, low_res=chain.low_res)
        return [t.numpy() for t in (found.logits.softmax(1), found.grid, found.density)]


def _compare(
    runner: Runner, runs: list[NDArray[np.float32]], expected: list[list[NDArray[np.float32]]]
) -> dict[str, float]:
    """Largest difference of each output over all runs; NaN where one is not finite."""
    worst = dict.fromkeys(OUTPUTS, 0.0)
    for images, wanted in zip(runs, expected, strict=True):
        for name, found, answer in zip(OUTPUTS, runner(images), wanted, strict=True):
            unit = answer + 1 / math.prod(answer.shape[-2:]) if name == "density" else 1.0
            difference = (np.abs(found - answer) / unit).max()
            worst[name] = float(np.maximum(worst[name], difference))  # keeps NaN
    return worst


def _check_differences(path: Path, runtime: str, differences: Mapping[str, float]) -> None:
    for name, value in differences.items():
        if not value <= TOLERANCE[name]:  # NaN too
            raise OutputError(
                f"{path.name} was not written: {runtime} gives a {name} that differs from the "
                f"model's by {value:.2g}, where {TOLERANCE[name]:g} is allowed; choose the other "
                "format, or another window."
            )


# ---- tracing and writing -------------------------------------------------------------------------


def _trace(
    chain: _Chain, example: NDArray[np.float32], *, dynamic: bool
) -> torch.export.ExportedProgram:
    shapes = {"image": {0: torch.export.Dim("batch", min=1)}} if dynamic else None
    with torch.no_grad(), _exporters_warnings_ignored():
        program = torch.export.export(
            chain, (torch.from_numpy(example),), dynamic_shapes=shapes, strict=False
        )
    # A published file holds neither the windows that it was made with nor this machine's paths.
    program.example_inputs = None
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program


@contextmanager
def _exporters_warnings_ignored() -> Iterator[None]:
    """Hide what torch's exporters say about themselves, which nobody who exports can change."""
    with warnings.catch_warnings():
        # channels_last weights are no "complete" tensor to torch.export.save; on CPUs it is right
        warnings.filterwarnings("ignore", "No complete tensor found in the group", UserWarning)
        # the grid net's outer nodes, whose atanh is infinite on purpose, are folded as constants
        warnings.filterwarnings("ignore", "divide by zero encountered in arctanh", RuntimeWarning)
        yield


def _import_onnx() -> None:
    """Fail before the work if a package is missing that ONNX needs."""
    try:
        for name in ("onnx", "onnxscript", "onnxruntime"):
            import_module(name)
    except ModuleNotFoundError as error:
        raise GeodeformError(
            f"Writing ONNX needs '{error.name}': pip install 'geodeform[export]'."
        ) from error


def _write_onnx(program: torch.export.ExportedProgram, path: Path, description: str) -> None:
    with torch.no_grad(), _exporters_warnings_ignored():
        converted = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=list(OUTPUTS),
            dynamic_shapes={"image": {0: "batch"}},
            verbose=False,
        )
        assert converted is not None  # only the old exporter returns None
        converted.model.metadata_props[METADATA_KEY] = description
        converted.save(path, external_data=False)


def _onnx_runner(path: Path) -> tuple[Runner, str]:
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
        found: Sequence[NDArray[np.float32]] = session.run(list(OUTPUTS), {"image": images})
        return found

    return run, f"ONNX Runtime {runtime.__version__} (CPU)"


def _write_torch(program: torch.export.ExportedProgram, path: Path, description: str) -> None:
    with _exporters_warnings_ignored():
        torch.export.save(program, path, extra_files={METADATA_KEY: description})


def _torch_runner(path: Path) -> tuple[Runner, str]:
    module = torch.export.load(path).module()

    def run(images: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
        with torch.no_grad():
            return [t.numpy() for t in module(torch.from_numpy(images))]

    return run, f"PyTorch {torch.__version__} (CPU)"


_TOOLS = {"onnx": (_write_onnx, _onnx_runner), "torch": (_write_torch, _torch_runner)}
