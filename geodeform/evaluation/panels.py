"""Panels: what the compared methods see and map, on blocks that a rule chooses (figures 7 and 8).

Evaluations keep the counts of every block of about 1024 px, or of whole images where they are no
larger. By these the blocks are ranked: by how much more of their pixels the learned method gets
right than the baseline. The largest gain, the median and the largest loss are drawn, so nobody
picks. Predictions are made again by the pipeline that was measured, in the same batches, for the
windows that touch the block: on the same machine what is drawn has the very counts of the
evaluation.

Classes have the dataset's own colours where all of them stay apart, for colour-blind readers too,
and else other ones of the same hues; captions say so.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from rasterio.windows import Window

from geodeform.classes import NODATA_CLASS, RGB, ClassScheme, from_hex, to_hex
from geodeform.config import Size
from geodeform.evaluation.campaign import Work
from geodeform.evaluation.comparison_tables import learns, trained_as
from geodeform.evaluation.data import EvaluationData
from geodeform.evaluation.evaluate import Settings, planned_run
from geodeform.evaluation.experiment import Entry, Experiment, shown_size
from geodeform.evaluation.metrics import Confusion
from geodeform.evaluation.result import ORACLE_MARK, Evaluation
from geodeform.evaluation.ways import find_way
from geodeform.geo.mosaic import FieldMosaic, Mosaic
from geodeform.models.deform_segmenter import DeformSegmenter
from geodeform.plot.layers import (
    DENSITY_COLOURS,
    NODATA_GREY,
    class_handles,
    class_picture,
    density_ticks,
)
from geodeform.plot.safe_colours import APART, SIGHTS, SafeScheme, safe_scheme
from geodeform.plot.views import to_rgb
from geodeform.predict import WindowPrediction
from geodeform.run import PathLike
from geodeform.training.windows import used_area

Area = tuple[slice, slice]
"""Rows and columns of an image, both ends given."""

_MOSTLY = 0.5  # of the usual known pixels, less in a block is too little to judge it by
_ONE_CLASS = 0.9  # of a block's known pixels; of one class, more leave no border to look at
_LEFT_OUT = f"without those with few known pixels or over {_ONE_CLASS:.0%} one class"
_RGB = ("red", "green", "blue")
_BUDGETS = 4  # rows of the figure of extreme rates, at most
_SPREAD = 1.5  # the scale of densities over even sampling's reaches from 1 / 1.5 to 1.5 at least

# inches
_WIDTH = 7.0
_GAP = 0.05
_SIDE = 0.28  # for what is written at the left
_NOTE = 0.15  # a line under a picture
_HEAD = 0.44  # what stands over the columns, up to three lines; more take more
_HEAD_LINE = 0.12
_BAR, _BAR_WIDTH = 0.3, 1.8  # the line of the densities' scale, and its bar
_LINE = 0.2  # heading of a block, or a line of a legend
_TALLEST = 2.0  # height of a picture over its width
_SMALL, _PLAIN = 6.0, 7.0  # points

_OURS, _BASELINE, _BOTH_WRONG = (from_hex(c) for c in ("#0072B2", "#D55E00", "#8C8C8C"))
_BOTH_RIGHT: RGB = (255, 255, 255)


@dataclass(frozen=True)
class Chosen:
    """A block of an image that is drawn.

    Attributes:
        item: The image.
        rows: Its first pixel row, and the one after its last; None for the image's edge.
        columns: The same of its columns.
        gain: Pixel accuracy over the baseline's, −1…1, of all seeds.
        rank: Why it was chosen, such as "largest gain".
        blocks: How many were ranked.
        seeds: How many the gain is of.
    """

    item: str
    rows: tuple[int, int | None]
    columns: tuple[int, int | None]
    gain: float
    rank: str
    blocks: int
    seeds: int

    def gain_words(self, drawn: float) -> str:
        """The gain that ranks it and, where that is of several seeds, the one of the maps drawn."""
        said = f"{100 * self.gain:+.1f} points of pixel accuracy"
        if self.seeds == 1:
            return said
        return f"{said} over {self.seeds} seeds, {100 * drawn:+.1f} of the one drawn"


@dataclass(frozen=True)
class BlockPrediction:
    """What a method makes of a block, of H×W pixels.

    Attributes:
        labels: (H, W) uint8 predicted classes, as the evaluation counted them.
        density: (H, W) float32 sampled pixels per pixel; blended where windows overlap.
        even: What the density would be if the budget lay evenly over all windows.
        seen: (h, w, 3) uint8, what the network was fed of the window that covers most of the block;
            None where it sees every pixel.
        positions: (h, w, 2) float32, where the samples of that window lie: (x, y) in pixels from
            the block's corner.
        spacing: Window pixels a sample, (y, x).
    """

    labels: NDArray[np.uint8]
    density: NDArray[np.float32]
    even: float
    seen: NDArray[np.uint8] | None
    positions: NDArray[np.float32]
    spacing: tuple[float, float]

    @property
    def over_even(self) -> NDArray[np.float32]:
        """(H, W) density over that of even sampling: what budgets and blocks have in common."""
        return self.density / np.float32(self.even)

    @property
    def density_ends(self) -> tuple[float, float]:
        """Percentiles 1 and 99 of it, as densities have tails."""
        low, high = np.percentile(self.over_even, (1, 99))
        return float(low), float(high)


@dataclass(frozen=True)
class Panel:
    """A figure for a report.

    Attributes:
        title: Its heading.
        caption: What it shows and how it was chosen, in sentences.
        figure: 7 inches wide; a PNG's bytes where an earlier report drew it.
        networks: Keys of the trainings whose networks it was drawn with; none of a chart.
    """

    title: str
    caption: str
    figure: Figure | bytes
    networks: tuple[str, ...] = ()


Results = Mapping[Entry, Evaluation]


def choose_blocks(
    ours: Sequence[Evaluation], baseline: Sequence[Evaluation], count: int = 3
) -> list[Chosen]:
    """Choose blocks by rank of the gain over the baseline: the ends, and evenly spaced between.

    A block's figure is its pixel accuracy over all evaluations of its side (seeds). Mean IoU would
    let a class that has a few pixels there decide the rank; accuracy weighs what the picture shows,
    its area. Blocks with less than half of the median number of known pixels are left out, and
    those of which one class covers more than 90 %: no sampler has anything to find there.

    Args:
        ours: Evaluations of one method.
        baseline: Those of the method that it is compared with.
        count: How many; 3 are the largest gain, the median and the largest loss, 1 is the median.

    Returns:
        Blocks from the largest gain down; fewer where there are fewer, none where nothing pairs.
    """
    mine, theirs = _pooled(ours), _pooled(baseline)
    keys = [key for key in mine if key in theirs]
    if not keys:
        return []
    known = {key: mine[key][0].counts.sum() / mine[key][1] for key in keys}
    enough = max(1.0, _MOSTLY * float(np.median(list(known.values()))))
    gains = {
        key: mine[key][0].accuracy() - theirs[key][0].accuracy()
        for key in keys
        if known[key] >= enough and mine[key][0].frequencies().max() <= _ONE_CLASS
    }
    ranked = sorted(gains, key=lambda key: (-gains[key], key))
    n = len(ranked)
    count = min(count, n)
    ranks = [round(k * (n - 1) / (count - 1)) for k in range(count)] if count > 1 else [n // 2]
    chosen = []
    for rank in ranks if n else ():
        item, row, column = key = ranked[rank]
        of_item = [(r, c) for name, r, c in mine if name == item]
        chosen.append(
            Chosen(
                item,
                (row, min((r for r, _ in of_item if r > row), default=None)),
                (column, min((c for _, c in of_item if c > column), default=None)),
                gains[key],
                _rank_name(rank, n, gains[key]),
                n,
                mine[key][1],
            )
        )
    return chosen


def predict_block(
    model: PathLike | DeformSegmenter,
    data: EvaluationData,
    block: Chosen,
    *,
    sampler: str,
    budget: str | None,
    allocation: str | None = None,
    device: str | torch.device = "auto",
) -> BlockPrediction:
    """Predict a block as :func:`geodeform.evaluation.evaluate.evaluate` predicts its image.

    Windows that touch the block are predicted, in whole batches of the evaluation: another batch
    may round otherwise.

    Args:
        model: The network, or its file.
        data: The images.
        block: Of :func:`choose_blocks`.
        sampler: One of :data:`geodeform.evaluation.ways.WAYS`.
        budget: As for ``evaluate``; None where every pixel is seen.
        allocation: As for ``evaluate``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:n``; counts are equal on the evaluation's own.

    Raises:
        GeodeformError: As ``evaluate``.
    """
    settings = Settings.of(
        model, data, budget=budget, sampler=sampler, allocation=allocation, device=device
    )
    network, way, spec = settings.network, settings.way, settings.network.spec
    image, labels = _read(data, block.item)
    area = _area(block, labels.shape)
    with planned_run(settings, image, data.dataset) as run:
        run = run.allocated(settings.allocation)
        plan = run.plan
        touching = {k: n for k in plan.active if (n := _common(plan.windows[k], area)) > 0}
        with way.predictor(run, labels) as predictor, _watch(network, not way.every_pixel) as fed:
            batches = predictor.batches(plan.active)
            # by size within a few rows, while a mosaic is fed row by row
            indices = [k for batch in batches if touching.keys() & batch for k in batch]
            found: dict[int, WindowPrediction] = {}
            for index, prediction in predictor.predict(sorted(indices)):
                assert prediction is not None  # an image in memory has data everywhere
                if index in touching:
                    found[index] = prediction
    mosaic = Mosaic(plan.windows, n_classes=spec.n_classes)
    field = FieldMosaic(plan.windows, n_classes=1)
    for index, prediction in found.items():
        mosaic.feed(index, prediction)
        field.feed(index, replace(prediction, probabilities=prediction.magnification[None]))
    most = max(touching, key=lambda index: touching[index])
    window, (h, w) = plan.windows[most], plan.size_of(most)
    corner = (window.col_off - area[1].start, window.row_off - area[0].start)
    seen = None
    if fed:
        images = [image for part in fed for image in part]
        scaled = images[indices.index(most)][:, :h, :w].numpy()
        mean, std = (np.array(v)[:, None, None] for v in (spec.scaling.mean, spec.scaling.std))
        shown: NDArray[np.float32] = np.clip(scaled * std + mean, 0, 1).astype(np.float32)
        seen = to_rgb(shown[_shown_bands(spec.bands)])
    return BlockPrediction(
        labels=_cut(((where, values) for where, values, _ in mosaic.close()), area),
        density=_cut(((where, values[0]) for where, values in field.close()), area),
        even=math.prod(plan.sample_size) / math.prod(plan.window_size),
        seen=seen,
        positions=found[most].samples.positions + np.array(corner, np.float32),
        spacing=(plan.window_size[0] / h, plan.window_size[1] / w),
    )


def panel_figures(
    experiment: Experiment,
    works: Sequence[Work],
    results: Results,
    data: EvaluationData,
    device: str | torch.device = "auto",
) -> tuple[list[Panel], str]:
    """Draw what the methods of an experiment see and map.

    The first figure shows three blocks at the smallest budget (figure 7): baseline, the learned
    method that is best there, the first one of the joint loss if neither is, and the first oracle
    and the first method that sees every pixel, if there are such. The second shows the block of
    median gain over the budgets (figure 8).

    Args:
        experiment: Says the methods.
        works: Where their networks lie.
        results: What was evaluated, all or a part; see
            :func:`geodeform.evaluation.campaign.read_results`.
        data: The images; all items of the results must be among its dataset's.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:n``.

    Returns:
        Panels, and "". Or none, where no learned method and the baseline have results at one
        budget, with networks that are there and blocks worth drawing, and a sentence that says why.

    Raises:
        GeodeformError: If a network or an image cannot be read.
    """
    models = {work.key: work.model for work in works if work.model.is_file()}
    there = {e: r for e, r in results.items() if e.trial.training in models}
    pair = _best_pair(experiment, there)
    if pair is None:
        return [], _why_no_pair(experiment, results, models.keys())
    artist = _Artist(experiment, there, models, data, device, *pair)
    found = [panel for panel in (artist.blocks(), artist.rates()) if panel is not None]
    if found:
        return found, ""
    return [], (
        f"There are no pictures: every {artist.noun()} has few known pixels or over "
        f"{_ONE_CLASS:.0%} one class, so that there is nothing to see."
    )


@dataclass(frozen=True)
class _Pair:
    """Evaluations of one learned method and of the baseline, of the same parts and seeds."""

    method: str
    budget: Size
    ours: list[Evaluation]
    baseline: list[Evaluation]

    @property
    def gain(self) -> float:
        """Pooled mIoU over the baseline's, −1…1."""
        return _miou(self.ours) - _miou(self.baseline)


def _best_pair(experiment: Experiment, results: Results) -> tuple[_Pair, int] | None:
    """The learned method of the largest gain at the smallest budget, and of how many."""
    found: dict[Size, list[_Pair]] = {}
    base = {
        (e.budget, e.fold, e.seed): r for e, r in results.items() if e.method == experiment.baseline
    }
    for name, method in experiment.methods.items():
        if name == experiment.baseline or method.study or not learns(experiment, name):
            continue
        cells = {(e.budget, e.fold, e.seed): r for e, r in results.items() if e.method == name}
        for budget in {key[0] for key in cells if key in base}:
            keys = [key for key in cells if key[0] == budget and key in base]
            assert budget is not None  # every pixel is another way than learned
            found.setdefault(budget, []).append(
                _Pair(name, budget, [cells[k] for k in keys], [base[k] for k in keys])
            )
    if not found:
        return None
    pairs = found[min(found, key=math.prod)]
    return max(pairs, key=lambda pair: pair.gain), len(pairs)


def _why_no_pair(experiment: Experiment, results: Results, models: Set[str]) -> str:
    """Why there is nothing to draw, a sentence for a page that begins with its command."""
    title = experiment.methods[experiment.baseline].title
    if _best_pair(experiment, results) is None:
        return (
            "There are no pictures: they show a learned method beside the baseline "
            f"('{title}'), and no budget has evaluations of both that belong together."
        )
    networks = {entry.trial.training for entry in results}
    return (
        "There are no pictures: they need the weights of a learned method and of the baseline "
        f"('{title}') at one budget, and {len(networks - models)} of the {len(networks)} networks "
        "that were evaluated have none beside their evaluations; the command at the top of this "
        "page trains a network again once its evaluations are deleted."
    )


@dataclass(frozen=True)
class _Cell:
    """A method's column in one row."""

    title: str
    prediction: BlockPrediction
    accuracy: float
    training: str


@dataclass(frozen=True)
class _Artist:
    """What both figures are made from."""

    experiment: Experiment
    results: Results
    models: Mapping[str, Any]
    data: EvaluationData
    device: str | torch.device
    pair: _Pair
    rivals: int

    def blocks(self) -> Panel | None:
        """Figure 7: three blocks at one budget."""
        chosen = choose_blocks(self.pair.ours, self.pair.baseline)
        if not chosen:
            return None
        names = self._methods(chosen)
        rows = []
        for block in chosen:
            image, labels = self._original(block)
            entries = [self._entry(name, self._budget(name), block) for name in names]
            cells = [self._cell(entry, block, labels) for entry in entries if entry is not None]
            rows.append((block, image, labels, cells))
        figure = _draw_blocks(rows, self._colours.classes)
        return Panel(
            f"What the methods see and map at {shown_size(self.pair.budget)} samples",
            self._block_caption(chosen, names),
            figure,
            _trainings(cell for _, _, _, cells in rows for cell in cells),
        )

    def rates(self) -> Panel | None:
        """Figure 8: the block of median gain over budgets."""
        chosen = choose_blocks(self.pair.ours, self.pair.baseline, count=1)
        if not chosen:
            return None
        block = chosen[0]
        names = [name for name in self._methods(chosen) if self._budget(name) is not None]
        budgets = sorted(
            {
                budget
                for budget in self.experiment.budgets_of(self.pair.method)
                if budget is not None
                and all(self._entry(name, budget, block) is not None for name in names[:2])
            },
            key=math.prod,
        )[:_BUDGETS]
        if len(budgets) < 2:
            return None
        image, labels = self._original(block)
        grid = []
        for budget in budgets:
            entries = [self._entry(name, budget, block) for name in names]
            cells = [None if e is None else self._cell(e, block, labels) for e in entries]
            grid.append((f"{shown_size(budget)}, {self._share(budget)}", cells))
        titles = [self.experiment.methods[name].title for name in names]
        figure = _draw_rates(image, labels, titles, grid, self._colours.classes)
        ours, base = (self.experiment.methods[name].title for name in names[1::-1])
        noun = self.noun()
        smallest = [cell for cell in grid[0][1] if cell is not None]
        caption = (
            f"Maps of one {noun} ({_place_name(block)}) from the smallest budget down the rows. "
            f"It is the {noun} of median gain of '{ours}' over '{base}' at the smallest budget "
            f"({block.gain_words(_drawn_gain(smallest))}), among {block.blocks} ({_LEFT_OUT}). "
            "Under each map: share of the "
            f"{noun}'s known pixels that are right. {self._seeds_said([block])}"
            f"{_colours_said(self._colours)}{self._joint_said(names)}{self._marks(names)}"
        )
        drawn = _trainings(cell for _, cells in grid for cell in cells if cell is not None)
        return Panel(f"One {noun} at the smallest budgets", caption, figure, drawn)

    @cached_property
    def _colours(self) -> SafeScheme:
        """The classes as all maps show them, and their legend."""
        return safe_scheme(self.data.classes, NODATA_GREY)

    def _methods(self, chosen: Sequence[Chosen]) -> list[str]:
        """Baseline and learned method, and what is drawn besides, as far as all blocks have it.

        That is: the joint loss, whose method all this is about, an oracle and every pixel.
        """
        names = [self.experiment.baseline, self.pair.method]
        ways = {e.method: find_way(e.trial.sampler) for e in self.results}
        wanted: list[Callable[[str], bool]] = [
            lambda name: ways[name].sees_labels,
            lambda name: ways[name].every_pixel,
        ]
        if not any(self._is_joint(name) for name in names):
            wanted.insert(0, self._is_joint)
        for fits in wanted:
            for name, method in self.experiment.methods.items():
                if (
                    name not in names
                    and not method.study
                    and all(self._entry(name, self._budget(name), block) for block in chosen)
                    and fits(name)
                ):
                    names.append(name)
                    break
        return names

    def _is_joint(self, method: str) -> bool:
        """Whether it samples where its network learned to by the joint loss."""
        if not learns(self.experiment, method):
            return False
        return trained_as(self.experiment, method, self.pair.budget).model.sampler == "joint"

    def _budget(self, method: str) -> Size | None:
        return None if self.experiment.methods[method].every_pixel else self.pair.budget

    def _entry(self, method: str, budget: Size | None, block: Chosen) -> Entry | None:
        """The evaluation of a block's image by the network of the seed that is drawn."""
        return self._by_seed(method, budget, block).get(self._seed(block))

    def _seed(self, block: Chosen) -> int:
        """The first seed that both of the pair have."""
        return min(
            self._by_seed(self.experiment.baseline, self.pair.budget, block).keys()
            & self._by_seed(self.pair.method, self.pair.budget, block).keys()
        )

    def _by_seed(self, method: str, budget: Size | None, block: Chosen) -> dict[int, Entry]:
        return {
            e.seed: e
            for e, r in self.results.items()
            if e.method == method and e.budget == budget and block.item in r.items
        }

    def _original(self, block: Chosen) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The block's pixels (H, W, 3), for display, and labels (H, W)."""
        image, labels = _read(self.data, block.item)
        rows, columns = _area(block, labels.shape)
        pixels = image[_shown_bands(self.data.bands), rows, columns].astype(
            np.float32
        ) / np.float32(255)
        return to_rgb(pixels), labels[rows, columns]

    def _cell(self, entry: Entry, block: Chosen, labels: NDArray[np.uint8]) -> _Cell:
        prediction = predict_block(
            self.models[entry.trial.training],
            self.data,
            block,
            sampler=entry.trial.sampler,
            budget=None if entry.budget is None else shown_size(entry.budget),
            allocation=entry.trial.allocation,
            device=self.device,
        )
        known = Confusion(len(self.data.classes))
        known.add(labels, prediction.labels)
        title = self.experiment.methods[entry.method].title
        return _Cell(title, prediction, known.accuracy(), entry.trial.training)

    def _share(self, budget: Size) -> str:
        """Samples over pixels of the learned method's evaluations at a budget."""
        costs = [
            r.cost
            for e, r in self.results.items()
            if e.method == self.pair.method and e.budget == budget
        ]
        share = sum(c.sampled_pixels for c in costs) / sum(c.scene_pixels for c in costs)
        return f"{100 * share:.2g} % of the pixels"

    def _block_caption(self, chosen: Sequence[Chosen], names: Sequence[str]) -> str:
        ours, base = (self.experiment.methods[name].title for name in names[1::-1])
        best = f", the best of {self.rivals} learned methods here" if self.rivals > 1 else ""
        added = len(self.pair.ours)
        noun = self.noun()
        what = "Blocks of about 1024 px" if noun == "block" else "Whole images"
        pooled = f", counts of {added} evaluations of each added" if added > 1 else ""
        several = max(block.seeds for block in chosen) > 1
        headings = "Headings say that gain, and the one of the seed drawn. " if several else ""
        return (
            f"{what} of {self.data.dataset} at {shown_size(self.pair.budget)} samples a window "
            f"({self._share(self.pair.budget)}). A rule chose them: {chosen[0].blocks} "
            f"{noun}s ({_LEFT_OUT}) were ranked by the gain in pixel accuracy of '{ours}'{best}, "
            f"over '{base}'{pooled}; drawn are {_and([c.rank for c in chosen])}. "
            f"{headings}First column: image and labels. Second: where '{ours}' samples "
            "densely, over even sampling of as many, and where only one of the two is right. The "
            f"scale of densities is logarithmic, one for all {noun}s, and spans at least "
            f"{1 / _SPREAD:.2g} to {_SPREAD:.2g}, so that what is nearly even looks so. "
            "Densest over sparsest is percentile 99 over percentile 1. Then, for each "
            f"method, what the network sees of the window that covers most of the {noun} (dashed: "
            f"the {noun}'s edge), and its map at full resolution with the share of known pixels "
            "that are right. "
            f"{self._seeds_said(chosen)}"
            f"{_colours_said(self._colours)}{self._joint_said(names)}{self._marks(names)}"
        )

    def noun(self) -> str:
        """What is drawn: a part of an image, or all of it where none is larger."""
        units = [unit for one in self.pair.ours for unit in one.units]
        return "block" if any(unit.row or unit.column for unit in units) else "image"

    def _seeds_said(self, chosen: Sequence[Chosen]) -> str:
        seeds = sorted({self._seed(block) for block in chosen})
        return f"The networks drawn are of seed {_and([str(seed) for seed in seeds])}."

    def _joint_said(self, names: Sequence[str]) -> str:
        titles = [self.experiment.methods[name].title for name in names[2:] if self._is_joint(name)]
        return "".join(
            f" '{title}', trained by the joint loss, is drawn whatever its gain."
            for title in titles
        )

    def _marks(self, names: Sequence[str]) -> str:
        ways = {e.method: find_way(e.trial.sampler) for e in self.results}
        return "".join(
            f" '{self.experiment.methods[name].title}': {ORACLE_MARK}."
            for name in names
            if ways[name].sees_labels
        )


def _trainings(cells: Iterable[_Cell]) -> tuple[str, ...]:
    """Keys of their trainings, once each."""
    return tuple(dict.fromkeys(cell.training for cell in cells))


_BlockRow = tuple[Chosen, NDArray[np.uint8], NDArray[np.uint8], list[_Cell]]


def _draw_blocks(rows: Sequence[_BlockRow], scheme: ClassScheme) -> Figure:
    """A row a block, of two lines; columns: original, density and who is right, each method."""
    columns = 2 + len(rows[0][3])
    side = (_WIDTH - (columns + 1) * _GAP) / columns
    heights = [side * _aspect(labels) for _, _, labels, _ in rows]
    total = sum(2 * (height + _NOTE + _GAP) + _LINE for height in heights)
    titles = ("Original", "Density; right and wrong", *(cell.title for cell in rows[0][3]))
    head = _head(titles, side)
    marks = _difference_handles(*(c.title for c in rows[0][3][1::-1]))
    page = _Page(head + total + _BAR, scheme, marks)
    for k, title in enumerate(titles):
        page.heading(_GAP + k * (side + _GAP) + side / 2, head / 2, title, side)
    ends = [cells[1].prediction.density_ends for _, _, _, cells in rows]
    norm = LogNorm(  # one for all, else what is nearly even would look like the strongest of them
        min(1 / _SPREAD, *(low for low, _ in ends)), max(_SPREAD, *(high for _, high in ends))
    )
    top = head
    for (block, image, labels, cells), height in zip(rows, heights, strict=True):
        said = f"{block.rank[0].upper()}{block.rank[1:]}, {block.gain_words(_drawn_gain(cells))}"
        page.text(_GAP, top + _LINE / 2, f"{said} ({_place_name(block)})")
        top += _LINE
        low = top + height + _NOTE + _GAP

        def at(
            column: int, y: float, note: str, *, low: float = low, height: float = height
        ) -> Axes:
            return page.axes(_GAP + column * (side + _GAP), y, side, height, note)

        at(0, top, "image").imshow(image)
        at(0, low, "labels").imshow(class_picture(labels, scheme))
        base, ours = cells[:2]
        sparsest, densest = ours.prediction.density_ends
        note = f"densest over sparsest: {_plain(densest / sparsest)}"
        at(1, top, note).imshow(ours.prediction.over_even, cmap=DENSITY_COLOURS, norm=norm)
        at(1, low, "right and wrong").imshow(_difference(labels, ours, base))
        for column, cell in enumerate(cells, 2):
            _draw_seen(at(column, top, _seen_note(cell)), cell.prediction)
            note = f"{cell.accuracy:.1%} right"
            at(column, low, note).imshow(class_picture(cell.prediction.labels, scheme))
        top = low + height + _NOTE + _GAP
    page.density_bar(top, norm)
    return page.figure


def _draw_rates(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    titles: Sequence[str],
    grid: Sequence[tuple[str, Sequence[_Cell | None]]],
    scheme: ClassScheme,
) -> Figure:
    """A row a budget; columns: original, then each method's map."""
    columns = 1 + len(titles)
    side = (_WIDTH - _SIDE - (columns + 1) * _GAP) / columns
    height = side * _aspect(labels)
    step = height + _NOTE + _GAP
    head = _head(titles, side)
    page = _Page(head + len(grid) * step, scheme)
    lefts = [_GAP + k * (side + _GAP) + (k > 0) * _SIDE for k in range(columns)]
    for left, title in zip(lefts, ("Original", *titles), strict=True):
        page.heading(left + side / 2, head / 2, title, side)
    page.axes(lefts[0], head, side, height, "image").imshow(image)
    page.axes(lefts[0], head + step, side, height, "labels").imshow(class_picture(labels, scheme))
    for row, (said, cells) in enumerate(grid):
        top = head + row * step
        page.upright(lefts[1] - _SIDE / 2, top + height / 2, said.replace(", ", "\n"))
        for left, cell in zip(lefts[1:], cells, strict=True):
            if cell is not None:
                axes = page.axes(left, top, side, height, f"{cell.accuracy:.1%} right")
                axes.imshow(class_picture(cell.prediction.labels, scheme))
    return page.figure


class _Page:
    """A figure that is laid out in inches from its top left corner, legends below."""

    def __init__(self, height: float, scheme: ClassScheme, marks: Sequence[Patch] = ()) -> None:
        legends = [class_handles(scheme, nodata="Unknown")] + ([list(marks)] if marks else [])
        columns = [min(6, len(handles)) for handles in legends]
        lines = [math.ceil(len(h) / n) for h, n in zip(legends, columns, strict=True)]
        self.height = height + sum(lines) * _LINE
        self.figure = Figure(figsize=(_WIDTH, self.height), dpi=200)
        top = height
        for handles, n, used in zip(legends, columns, lines, strict=True):
            self.figure.legend(
                handles=handles, loc="upper center", bbox_to_anchor=(0.5, 1 - top / self.height),
                ncols=n, fontsize=_PLAIN, frameon=False, borderpad=0.2, columnspacing=1.2,
                handlelength=1.4, handleheight=0.9,
            )  # fmt: skip
            top += used * _LINE

    def axes(self, left: float, top: float, width: float, height: float, note: str) -> Axes:
        """Axes without ticks, and what is written under them."""
        axes = self.figure.add_axes(
            (
                left / _WIDTH,
                1 - (top + height) / self.height,
                width / _WIDTH,
                height / self.height,
            )
        )
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_linewidth(0.4)
        axes.set_xlabel(note, fontsize=_SMALL, labelpad=1.5)
        return axes

    def heading(self, x: float, y: float, words: str, width: float) -> None:
        """A column's heading, broken to fit its width."""
        self._write(x, y, "\n".join(_broken(words, width)), ha="center", weight="bold")

    def density_bar(self, top: float, norm: LogNorm) -> None:
        """The scale of densities, in words and colours, on a line of its own."""
        middle = top + 0.09
        left = 0.62 * _WIDTH - _BAR_WIDTH / 2  # what it measures stands left of it
        words = "Density: samples a pixel over even sampling"
        self._write(left - 0.1, middle, words, ha="right")
        axes = self.figure.add_axes(
            (left / _WIDTH, 1 - (middle + 0.045) / self.height,
             _BAR_WIDTH / _WIDTH, 0.09 / self.height)
        )  # fmt: skip
        bar = self.figure.colorbar(
            ScalarMappable(norm, DENSITY_COLOURS), cax=axes, orientation="horizontal"
        )
        bar.outline.set_linewidth(0.4)
        axes.minorticks_off()
        low, high = density_ticks(norm, 2)
        ticks = [low, 1.0, high]
        axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
        axes.tick_params(labelsize=_SMALL, length=2, width=0.4, pad=1)

    def text(self, x: float, y: float, words: str) -> None:
        """A line from ``x`` on."""
        self._write(x, y, words, ha="left")

    def upright(self, x: float, y: float, words: str) -> None:
        """Words that run upward, centred."""
        self._write(x, y, words, ha="center", rotation=90)

    def _write(self, x: float, y: float, words: str, **style: Any) -> None:
        self.figure.text(
            x / _WIDTH, 1 - y / self.height, words, va="center", fontsize=_PLAIN, **style
        )


def _broken(words: str, width: float) -> list[str]:
    """Lines of a heading."""
    return textwrap.wrap(words, max(12, round(width / 0.065)))


def _head(titles: Sequence[str], width: float) -> float:
    """Height of what stands over the columns."""
    return max(_HEAD, _HEAD_LINE * (max(len(_broken(one, width)) for one in titles) + 0.5))


def _draw_seen(axes: Axes, prediction: BlockPrediction) -> None:
    """The sampled image in its window's shape, and the block's edge where it is not all of it."""
    if prediction.seen is None:
        axes.text(
            0.5, 0.5, "every pixel", ha="center", va="center", fontsize=_PLAIN,
            transform=axes.transAxes,
        )  # fmt: skip
        return
    h, w = prediction.seen.shape[:2]
    y_spacing, x_spacing = prediction.spacing
    axes.imshow(
        prediction.seen,
        extent=(0, w, h, 0),
        interpolation="nearest",
        aspect=y_spacing / x_spacing,
    )
    height, width = prediction.labels.shape
    x, y = prediction.positions[..., 0], prediction.positions[..., 1]
    depth = np.minimum.reduce([x, width - x, y, height - y])  # pixels inside the block's edge
    if depth.min() < 0 < depth.max():
        axes.contour(
            np.arange(w) + 0.5, np.arange(h) + 0.5, depth, levels=[0.0],
            colors="white", linewidths=0.8, linestyles="dashed",
        )  # fmt: skip


def _plain(ratio: float) -> str:
    """A ratio above 1, in about two digits.

    >>> _plain(1.23), _plain(123.4)
    ('1.2', '123')
    """
    return f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"


def _seen_note(cell: _Cell) -> str:
    seen = cell.prediction.seen
    return "" if seen is None else f"{seen.shape[0]}x{seen.shape[1]} samples"


def _drawn_gain(cells: Sequence[_Cell]) -> float:
    """Pixel accuracy of the second method's map over the baseline's, the first."""
    return cells[1].accuracy - cells[0].accuracy


def _difference(labels: NDArray[np.uint8], ours: _Cell, base: _Cell) -> NDArray[np.uint8]:
    """(H, W, 3): who is right."""
    colours = np.array([_BOTH_WRONG, _BASELINE, _OURS, _BOTH_RIGHT], np.uint8)
    right = [cell.prediction.labels == labels for cell in (base, ours)]
    picture: NDArray[np.uint8] = colours[right[0] + 2 * right[1]]
    picture[labels == NODATA_CLASS] = NODATA_GREY
    return picture


def _difference_handles(ours: str, base: str) -> list[Patch]:
    said: tuple[tuple[RGB, str], ...] = (
        (_OURS, f"only right: {ours}"),
        (_BASELINE, f"only right: {base}"),
        (_BOTH_RIGHT, "both right"),
        (_BOTH_WRONG, "both wrong"),
    )
    return [
        Patch(facecolor=to_hex(colour), edgecolor="#808080", linewidth=0.5, label=name)
        for colour, name in said
    ]


def _pooled(evaluations: Sequence[Evaluation]) -> dict[tuple[str, int, int], tuple[Confusion, int]]:
    """(item, row, column) → counts of all evaluations, and how many have that block."""
    found: dict[tuple[str, int, int], tuple[Confusion, int]] = {}
    for evaluation in evaluations:
        for unit in evaluation.units:
            key = (unit.item, unit.row, unit.column)
            counts, times = found.get(key, (Confusion(len(unit.counts)), 0))
            counts.counts += unit.counts
            found[key] = counts, times + 1
    return found


def _colours_said(found: SafeScheme) -> str:
    """A caption's sentence on class colours; none where they are the dataset's own and apart."""
    if found.apart and not found.changed:
        return ""
    normal, *blind = SIGHTS
    seen = f"CIE Lab in {normal} and in simulated {_and(blind)}"
    changed = " Not all class colours are the dataset's own: lightness and saturation are changed"
    if found.apart:
        return f"{changed} until every two, and unknown, lay at least {APART} apart in {seen}."
    # rounded down: never as far apart as aimed at
    closest = (
        f"the two that come closest lie {math.floor(found.distance)} apart, of {APART} aimed at"
    )
    if found.changed:
        return f"{changed} to bring them further apart in {seen}; {closest}."
    return f" Class colours are the dataset's own, some of them alike in {seen}: {closest}."


def _rank_name(rank: int, n: int, gain: float) -> str:
    if n == 1:
        return "the only block"
    if rank == 0:
        return "largest gain" if gain > 0 else "smallest loss"
    if rank == n - 1:
        return "largest loss" if gain < 0 else "smallest gain"
    return "median" if rank in ((n - 1) // 2, n // 2) else f"rank {rank + 1} of {n}"


def _miou(evaluations: Sequence[Evaluation]) -> float:
    return Confusion.of(np.sum([e.soft.confusion.counts for e in evaluations], axis=0)).miou()


def _read(data: EvaluationData, item: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An item's image (C, H, W) and labels (H, W), as far as they are used."""
    scene = data.scene(item)
    rows, columns = used_area(scene, data.crop)
    return np.array(scene.image()[:, rows, columns]), np.array(scene.labels[rows, columns])


def _area(block: Chosen, shape: tuple[int, ...]) -> Area:
    """A block's rows and columns in an image of (H, W)."""
    (top, bottom), (left, right) = block.rows, block.columns
    height, width = shape
    return (
        slice(top, height if bottom is None else bottom),
        slice(left, width if right is None else right),
    )


def _common(window: Window, area: Area) -> int:
    """Pixels that a window and a block share."""
    sides: list[int] = [
        max(0, min(int(mine.stop), block.stop) - max(int(mine.start), block.start))
        for mine, block in zip(window.toslices(), area, strict=True)
    ]
    return math.prod(sides)


@contextmanager
def _watch(network: DeformSegmenter, wanted: bool) -> Iterator[list[torch.Tensor]]:
    """Collect what the segmenter is fed: (B, C, h, w) of network input values, padded."""
    fed: list[torch.Tensor] = []
    if not wanted:
        yield fed
        return
    hook = network.segmenter.register_forward_pre_hook(
        lambda _, inputs: fed.append(inputs[0].float().cpu())
    )
    try:
        yield fed
    finally:
        hook.remove()


def _cut(blocks: Iterable[tuple[Window, NDArray[Any]]], area: Area) -> NDArray[Any]:
    """The part of full-width blocks (h, W), top to bottom, that lies in an area."""
    rows, columns = area
    parts = [
        values[max(0, rows.start - window.row_off) : max(0, rows.stop - window.row_off), columns]
        for window, values in blocks
    ]
    return np.concatenate(parts)


def _shown_bands(names: Sequence[str]) -> list[int]:
    """Bands to show: red, green and blue where there are all, else the first three."""
    if all(name in names for name in _RGB):
        return [names.index(name) for name in _RGB]
    return list(range(min(3, len(names))))


def _aspect(labels: NDArray[np.uint8]) -> float:
    height, width = labels.shape
    return float(min(height / width, _TALLEST))


def _place_name(block: Chosen) -> str:
    """Where a block is."""
    if block.rows == block.columns == (0, None):
        return f"image {block.item}"
    return f"image {block.item}, from row {block.rows[0]} and column {block.columns[0]}"


def _and(words: Sequence[str]) -> str:
    """Join words as a sentence does."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
