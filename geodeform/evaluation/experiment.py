"""Experiment: from a YAML file to the trainings and evaluations that it asks for.

An experiment trains *methods* (a sampler with its settings) with several seeds and held-out parts,
and evaluates each at several budgets. Every training has a key, a hash of its resolved recipe: what
two experiments share is trained once, and a run that was stopped continues where it was.

::

    title: Learned against uniform sampling on Dubai
    recipe: ../dubai.yaml             # what every training starts from; its path counts from here
    settings: {optim.steps: 600}      # over the recipe, for every training
    held_out: leave-one-out           # or [[7], [8]]: items that are not trained on, part by part;
                                      # where it is not given, the recipe's own split
    split: val                        # part that is evaluated: val (what is held out) or test
    block_items: 1                    # successive images that an interval draws together
    budgets: [32, 64, 128]            # samples of a window
    networks: shared                  # one network for all budgets, or one of its own each
    seeds: [0, 1, 2]
    baseline: uniform                 # what the others are compared with
    baseline_budgets: [36, 72]        # where it is evaluated besides, to compare at equal time
    baseline_networks: shared         # there by the networks of the budgets above, or by its own
    methods:
      uniform: {settings: {model.sampler: uniform}}
      joint: {title: joint loss, settings: {model.sampler: joint}}
      oracle: {network_of: joint, sampler: oracle}      # another sampler of the same network
      need: {network_of: joint, allocation: need}       # windows get what they need, not all alike
      edge: {recipe: ../deepglobe/edge_{budget}.yaml}   # networks: own; 100 for 100x100, or 64x128
      full: {sampler: full, settings: {model.sampler: uniform, data.window: 128, model.sizes: 128}}
    studies:
      σ of the kernel: {method: joint, budgets: [64], setting: model.sigma, values: [2, 4, 8]}
      Options: {method: joint, budgets: [64], changes: {coordinates: {model.density_coords: true}}}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from geodeform.config import Size, TrainConfig
from geodeform.errors import ConfigError, DatasetError
from geodeform.evaluation.data import SPLITS, SplitName
from geodeform.evaluation.ways import find_way
from geodeform.models.model_file import locate_model
from geodeform.models.spec import SAMPLERS_OF, nearest_names
from geodeform.training.datasets.base import LabelledDataset, Split, listed
from geodeform.training.train import DOWNSAMPLERS, find_pretrained

Networks = Literal["shared", "own"]
Allocation = Literal["even", "need"]

LEAVE_ONE_OUT = "leave-one-out"

_ELSEWHERE = {
    "data.root", "data.cache", "data.workers", "run.out", "run.device", "run.devices", "run.nodes",
    "run.strategy", "run.val_every", "run.val_windows", "run.panel_every", "run.checkpoint_every",
}  # fmt: skip
"""Settings without an effect on the weights: where data lie, what computes, what is written."""

_CHOOSING = ("run.val_every", "run.val_windows")
"""Of these, what has one where validations choose the weights or end the training."""


@dataclass(frozen=True)
class Method:
    """A way to train and to sample, compared with others.

    Attributes:
        name: Its key in the experiment.
        title: What readers call it.
        recipes: Budget → what its training starts from, instead of the experiment's recipe.
        settings: Dotted settings of its training, over the experiment's.
        network_of: Method whose networks it uses, instead of training some.
        sampler: One of :data:`geodeform.evaluation.ways.WAYS`; the networks' own where None.
        allocation: How the budget is shared out over windows, see :func:`geodeform.segment_scene`.
        study: Title of the study that it is a point of, "" for none.
        budgets: Where it is evaluated; the experiment's where empty.
        seeds: Of its trainings; the experiment's where empty.
    """

    name: str
    title: str
    recipes: Mapping[Size, TrainConfig] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    network_of: str | None = None
    sampler: str | None = None
    allocation: Allocation = "even"
    study: str = ""
    budgets: tuple[Size, ...] = ()
    seeds: tuple[int, ...] = ()

    @property
    def every_pixel(self) -> bool:
        """Whether it sees all pixels, so that it has no budget."""
        return self.sampler is not None and find_way(self.sampler).every_pixel


@dataclass(frozen=True)
class Study:
    """Variations of one method, a setting or a change at a time.

    Attributes:
        title: What is varied.
        method: Name of the method that is varied.
        points: Names of the methods that vary it, each ``study/label``.
        labels: Of the points.
    """

    title: str
    method: str
    points: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """One evaluation: a network with a sampler at a budget.

    Attributes:
        training: Key of the network's training.
        sampler: Way to predict.
        budget: Samples (h, w) of a window; None where every pixel is seen.
        allocation: How the budget is shared out over windows; None where every pixel is seen.
        split: Part of the dataset.
    """

    training: str
    sampler: str
    budget: Size | None
    allocation: Allocation | None
    split: SplitName

    @property
    def file_name(self) -> str:
        """Name of its result in the training's folder."""
        at = "all" if self.budget is None else shown_size(self.budget)
        if self.allocation == "need":
            at += "-need"
        return f"{self.split}-{self.sampler}-{at}.json"


@dataclass(frozen=True)
class Entry:
    """Where a trial belongs: a cell of the experiment.

    Attributes:
        method: Name of the method.
        fold: Held-out items, () for the recipe's own split.
        seed: Of the training.
        budget: Samples (h, w) of a window; None where every pixel is seen.
        trial: The evaluation.
    """

    method: str
    fold: tuple[str, ...]
    seed: int
    budget: Size | None
    trial: Trial


@dataclass(frozen=True)
class Experiment:
    """Everything that is trained and evaluated.

    Attributes:
        name: Of its report's folder: the file's stem.
        title: Heading of the report.
        about: What the report says under its heading, one paragraph.
        recipe: What every training starts from, with the experiment's settings.
        settings: The experiment's settings.
        overrides: Settings over all others, such as for a trial of two steps.
        methods: By name, in the order of the report; the studies' points at the end.
        studies: Variations.
        baseline: Name of the method that the others are compared with.
        baseline_budgets: Further budgets of the baseline, in order of size.
        baseline_networks: ``own``: at each of these it has networks that are trained at that size
            alone, as all others then have; ``shared``: those of the nearest of the experiment's
            budgets.
        budgets: Samples (h, w) of a window, in order of size.
        networks: ``shared``: one network for all budgets; ``own``: one for each.
        seeds: Of the trainings.
        folds: Held-out items of each part; ``((),)`` for the recipe's own split.
        leave_one_out: Whether the folds are all items of the dataset, which :meth:`with_items`
            fills in.
        split: Part that is evaluated.
        block_items: Successive images that an interval draws together: frames of a video are no
            independent ones.
        dataset: What it is done on, which :meth:`on` fills in: keys depend on its files and split.
    """

    name: str
    title: str
    about: str
    recipe: TrainConfig
    settings: Mapping[str, Any]
    overrides: Mapping[str, Any]
    methods: Mapping[str, Method]
    studies: tuple[Study, ...]
    baseline: str
    baseline_budgets: tuple[Size, ...]
    budgets: tuple[Size, ...]
    networks: Networks
    seeds: tuple[int, ...]
    folds: tuple[tuple[str, ...], ...]
    leave_one_out: bool
    split: SplitName
    block_items: int = 1
    baseline_networks: Networks = "shared"
    dataset: LabelledDataset | None = None

    def budgets_of(self, method: str) -> tuple[Size | None, ...]:
        """Where a method is evaluated, in order of size."""
        one = self.methods[method]
        if one.every_pixel:
            return (None,)
        budgets = one.budgets or self.budgets
        if method == self.baseline:
            budgets = (*budgets, *self.baseline_budgets)
        return tuple(sorted(dict.fromkeys(budgets), key=_pixels))

    def on(self, dataset: LabelledDataset) -> Experiment:
        """Return the experiment on a dataset that is there.

        Folds that are the dataset's items one by one are filled in, keys get its fingerprint and
        split, and what is held out and evaluated is looked up before anything is trained.

        Raises:
            DatasetError: If an item that is held out is not there, the dataset cannot be split, or
                the part to be evaluated is empty.
        """
        folds = self.folds
        if self.leave_one_out:
            folds = tuple((item,) for item in dataset.items)
        for item in (item for fold in folds for item in fold):
            if item not in dataset.items:
                raise DatasetError(
                    f"{self.name} holds out item {item}, which is not in {dataset.root}; it has "
                    f"{listed(dataset.items)}."
                )
        found = replace(self, folds=folds, dataset=dataset)
        found.entries()  # its keys split the dataset for every training
        for parts in found._splits.values():
            if not parts.to_dict()[self.split]:
                raise DatasetError(
                    f"{dataset.root} has no items for the part '{self.split}', which {self.name} "
                    "evaluates; give another with --split."
                )
        return found

    def trainings(self) -> dict[str, TrainConfig]:
        """Key → resolved recipe of everything that is trained, seed after seed."""
        found: dict[str, TrainConfig] = {}
        for entry in self.entries():
            key = entry.trial.training
            if key not in found:
                found[key] = self.config_of(entry.method, entry.fold, entry.seed, entry.budget)
        return found

    def entries(self) -> list[Entry]:
        """All cells, seed after seed, then fold after fold: what is stopped early is balanced."""
        return list(self._entries)

    @cached_property
    def _entries(self) -> list[Entry]:
        found = []
        for seed in self._all_seeds():
            for fold in self.folds:
                for method in self.methods.values():
                    if seed not in self.seeds_of(method.name):
                        continue
                    for budget in self.budgets_of(method.name):
                        config = self.config_of(method.name, fold, seed, budget)
                        sampler = method.sampler or _own_sampler(config)
                        allocation = None if budget is None else method.allocation
                        key = self._key(config)
                        trial = Trial(key, sampler, budget, allocation, self.split)
                        found.append(Entry(method.name, fold, seed, budget, trial))
        return found

    def seeds_of(self, method: str) -> tuple[int, ...]:
        """Seeds of a method's trainings."""
        return self.methods[method].seeds or self.seeds

    def _all_seeds(self) -> list[int]:
        return sorted({seed for name in self.methods for seed in self.seeds_of(name)})

    def config_of(
        self, method: str, fold: tuple[str, ...], seed: int, budget: Size | None
    ) -> TrainConfig:
        """The resolved recipe of the network that a cell uses."""
        cell = method, fold, seed, budget
        if cell not in self._configs:
            self._configs[cell] = self._config(*cell)
        return self._configs[cell]

    @cached_property
    def _configs(self) -> dict[tuple[str, tuple[str, ...], int, Size | None], TrainConfig]:
        return {}

    def _config(
        self, method: str, fold: tuple[str, ...], seed: int, budget: Size | None
    ) -> TrainConfig:
        one = self.methods[method]
        if one.network_of is not None:
            return self.config_of(one.network_of, fold, seed, budget)
        settings: dict[str, Any] = {"run.seed": seed}
        if fold:
            settings["data.val_items"] = list(fold)
        alone = self.trained_for(method, budget)
        sizes = self.budgets if alone is None else (alone,)
        if one.recipes:
            recipe = one.recipes[sizes[0]].merged(self.settings)
        else:
            recipe = self.recipe
            # of the budgets that are compared; where else the baseline is evaluated changes nothing
            settings["model.sizes"] = [list(size) for size in sizes]
            settings["model.default_size"] = None
        return recipe.merged({**settings, **one.settings, **self.overrides})

    def _key(self, config: TrainConfig) -> str:
        return training_key(config, self._origin, self._split(config))

    def _split(self, config: TrainConfig) -> Split | None:
        """How a training splits the dataset, as :func:`geodeform.training.train.train` does."""
        if self.dataset is None:
            return None
        asked = config.data.val_items, config.data.split_seed
        if asked not in self._splits:  # once for all that ask alike: lists are read, and warned of
            self._splits[asked] = self.dataset.split(asked[0], seed=asked[1])
        return self._splits[asked]

    @cached_property
    def _origin(self) -> str:
        return "" if self.dataset is None else _fingerprint(self.dataset)

    @cached_property
    def _splits(self) -> dict[tuple[tuple[str, ...], int], Split]:
        return {}

    def trained_for(self, method: str, budget: Size | None) -> Size | None:
        """The budget that a cell's network is trained for alone; None of one that serves all."""
        if budget is None:
            return None
        beside = budget not in (self.methods[method].budgets or self.budgets)
        if beside and method == self.baseline and self.baseline_networks == "own":
            return budget
        if self.networks == "shared":
            return None
        # where the baseline is evaluated besides, by the network of the nearest budget
        return min(self.budgets, key=lambda size: abs(_pixels(size) - _pixels(budget)))


def _own_sampler(config: TrainConfig) -> str:
    """The sampler that a training is for."""
    return SAMPLERS_OF[DOWNSAMPLERS[config.model.sampler]][0]


def training_key(config: TrainConfig, origin: str = "", split: Split | None = None) -> str:
    """Hash of everything that has an effect on the weights, or on the evaluations beside them.

    The recipe, without settings at their defaults (so a setting that a later version adds changes
    nothing), the contents of the files that it names, the dataset's fingerprint, and geodeform's
    version. And the split as it comes out, all parts: the recipe does not say it where the dataset
    comes with one, in lists that are no item's files.
    """
    own, usual = config.to_dict(), TrainConfig().to_dict()
    idle = _ELSEWHERE
    if config.run.export == "best" or config.optim.patience > 0:
        idle = _ELSEWHERE - set(_CHOOSING)
    changed = {
        f"{section}.{key}": value
        for section, values in own.items()
        for key, value in values.items()
        if f"{section}.{key}" not in idle and value != usual[section][key]
    }
    contents = [_pretrained(config.model.pretrained, config.model.segmenter)]
    if (path := changed.pop("data.classes", None)) is not None:
        contents.append(_content(Path(path)) if Path(path).is_file() else str(path))
    if (teacher := changed.pop("loss.teacher", None)) is not None:
        with locate_model(teacher) as file:  # a packaged model changes, its name does not
            contents.append(_content(file))
    changed.pop("model.pretrained", None)
    parts = None if split is None else split.to_dict()
    text = json.dumps([version("geodeform"), changed, contents, origin, parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@lru_cache(maxsize=64)
def _pretrained(setting: str, segmenter: str) -> str:
    """Hash of the weights that an encoder starts from, "" for random ones."""
    path = find_pretrained(setting, segmenter)
    return "" if path is None else _content(path)


@lru_cache(maxsize=64)
def _content(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fingerprint(dataset: LabelledDataset) -> str:
    """Hash of a dataset's items and of the names and sizes of their files."""
    rows = [
        [item, [[path.name, path.stat().st_size] for path in dataset.files(item)]]
        for item in dataset.items
    ]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def read_experiment(
    path: str | Path,
    overrides: Mapping[str, Any] | None = None,
    split: SplitName | None = None,
    seeds: Sequence[int] = (),
    baseline: str | None = None,
) -> Experiment:
    """Read an experiment (see the module's head).

    Args:
        path: YAML file.
        overrides: Dotted settings over those of all trainings.
        split: Part that is evaluated, instead of the file's.
        seeds: Of all trainings, instead of the file's.
        baseline: Name of the method that the others are compared with, instead of the file's. The
            experiment is then called ``NAME-over-METHOD``: its report is one of its own.

    Raises:
        ConfigError: If the file cannot be read, a key is unknown, or a value does not fit.
    """
    path = Path(path)
    chosen = _seeds(list(seeds), "seeds")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the experiment {path}: {error.strerror}.") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    try:
        experiment = _experiment(path, values, overrides or {}, baseline)
        if baseline is not None and baseline != str(values["baseline"]):
            experiment = replace(experiment, name=f"{experiment.name}-over-{baseline}")
        if chosen:
            methods = {name: replace(one, seeds=()) for name, one in experiment.methods.items()}
            experiment = replace(experiment, seeds=chosen, methods=methods)
        if split is not None:
            experiment = replace(experiment, split=split)
        _check(experiment)  # as it is run: the file may be sound where the caller's part is not
    except ConfigError as error:
        if str(error).startswith(str(path)):
            raise
        raise ConfigError(f"{path}: {error}") from error
    return experiment


def shown_size(size: Size) -> str:
    """Return a size as recipes write it: ``64x64``."""
    return f"{size[0]}x{size[1]}"


_KEYS = {
    "title", "about", "recipe", "settings", "held_out", "split", "block_items", "budgets",
    "networks", "seeds", "baseline", "baseline_budgets", "baseline_networks", "methods", "studies",
}  # fmt: skip
_METHOD_KEYS = {
    "title", "recipe", "settings", "network_of", "sampler", "allocation", "budgets", "seeds",
}  # fmt: skip
_STUDY_KEYS = {"method", "setting", "values", "changes", "budgets", "seeds"}


def _experiment(
    path: Path, values: Any, overrides: Mapping[str, Any], asked_baseline: str | None
) -> Experiment:
    top = _section(values, _KEYS, "the experiment")
    for needed in ("recipe", "budgets", "methods", "baseline"):
        if needed not in top:
            raise ConfigError(f"'{needed}' is missing.")
    settings = _settings(top.get("settings"), "settings")
    recipe = TrainConfig.from_yaml(path.parent / str(top["recipe"])).merged(settings)
    recipe = recipe.merged(overrides)
    budgets = tuple(sorted(_sizes(top["budgets"], "budgets"), key=_pixels))
    if not budgets:
        raise ConfigError("'budgets' needs at least one size.")
    networks = _choice(top.get("networks", "shared"), get_args(Networks), "networks")
    methods = _methods(top["methods"], path.parent, budgets if networks == "own" else ())
    baseline = asked_baseline or str(top["baseline"])
    if baseline not in methods:
        raise ConfigError(
            f"The baseline '{baseline}' is no method{nearest_names(baseline, list(methods))}; "
            f"there are {listed(tuple(methods))}."
        )
    beside = _choice(
        top.get("baseline_networks", "shared"), get_args(Networks), "baseline_networks"
    )
    if beside == "own" and methods[baseline].recipes:
        raise ConfigError(
            f"'baseline_networks: own' needs sizes that settings give; the baseline '{baseline}' "
            "has recipes of its own, of which there are none for further budgets."
        )
    if beside == "own" and networks != "own" and len(budgets) > 1:
        raise ConfigError(
            "'baseline_networks: own' needs 'networks: own' where there are several budgets: equal "
            "time would compare methods whose network serves all budgets with a baseline that has "
            "one for each."
        )
    studies = _studies(top.get("studies") or {}, methods)
    held_out, leave_one_out = top.get("held_out"), False
    folds: tuple[tuple[str, ...], ...] = ((),)
    if held_out == LEAVE_ONE_OUT:
        leave_one_out = True
    elif held_out is not None:
        folds = _folds(held_out)
    return Experiment(
        name=path.stem,
        title=str(top.get("title", path.stem)),
        about=" ".join(str(top.get("about", "")).split()),
        recipe=recipe,
        settings=settings,
        overrides=dict(overrides),
        methods=methods,
        studies=studies,
        baseline=baseline,
        baseline_budgets=_sizes(top.get("baseline_budgets", []), "baseline_budgets"),
        budgets=budgets,
        networks=networks,
        seeds=_seeds(top.get("seeds", [0, 1, 2]), "seeds", needed=True),
        folds=folds,
        leave_one_out=leave_one_out,
        split=_choice(top.get("split", "val"), SPLITS, "split"),
        block_items=_count(top.get("block_items", 1), "block_items"),
        baseline_networks=beside,
    )


def _check(experiment: Experiment) -> None:
    """Check what the parts allow together, before anything is trained."""
    held_out = [item for fold in experiment.folds for item in fold]
    if len(set(held_out)) < len(held_out):
        raise ConfigError("'held_out' names an item twice; parts must not overlap.")
    folded = experiment.leave_one_out or held_out
    if folded and experiment.split != "val":
        raise ConfigError("What 'held_out' names is evaluated as 'split: val'.")
    for entry in experiment.entries():
        config = experiment.config_of(entry.method, entry.fold, entry.seed, entry.budget)
        downsampler = DOWNSAMPLERS[config.model.sampler]
        allowed = [*SAMPLERS_OF[downsampler], "full"]
        if downsampler != "resizer":
            allowed.append("oracle")
        if entry.trial.sampler not in allowed:
            raise ConfigError(
                f"Method '{entry.method}' samples '{entry.trial.sampler}', which its networks "
                f"(model.sampler: {config.model.sampler}) cannot; they can {', '.join(allowed)}."
            )
        if entry.trial.allocation == "need" and not config.model.error_net:
            raise ConfigError(
                f"Method '{entry.method}' allocates by need, which its networks cannot: set "
                "model.error_net."
            )
        if experiment.methods[entry.method].allocation == "need" and entry.budget is None:
            raise ConfigError(f"Method '{entry.method}' sees every pixel: nothing to allocate.")
        if experiment.split == "val" and config.run.export == "best":
            raise ConfigError(
                f"Method '{entry.method}' would choose its weights on what is evaluated: set "
                "run.export to last, or split to test."
            )
        if experiment.split == "val" and config.optim.patience > 0:
            raise ConfigError(
                f"Method '{entry.method}' would stop its training by what is evaluated: set "
                "optim.patience to 0, or split to test."
            )


def _methods(values: Any, folder: Path, own_budgets: tuple[Size, ...]) -> dict[str, Method]:
    """Read the methods; their own recipes are for networks that are trained for each budget."""
    methods: dict[str, Method] = {}
    if not isinstance(values, Mapping) or not values:
        raise ConfigError("'methods' must be a section with one entry a method.")
    for key, given in values.items():
        name, where = str(key), f"methods.{key}"
        one = _section(given or {}, _METHOD_KEYS, where)
        network_of = one.get("network_of")
        if network_of is not None and not isinstance(network_of, str):
            raise ConfigError(
                f"'{where}.network_of' must be the name of one method, got {network_of}."
            )
        if network_of is not None and (
            network_of not in values or "settings" in one or "recipe" in one
        ):
            raise ConfigError(
                f"'{where}.network_of' names another method, whose settings it has: {network_of} "
                "is none, or settings or a recipe are given too."
            )
        methods[name] = Method(
            name,
            title=str(one.get("title", name)),
            recipes=_recipes(one.get("recipe"), where, folder, own_budgets),
            settings=_settings(one.get("settings"), f"{where}.settings"),
            network_of=network_of,
            sampler=_sampler(one.get("sampler")),
            allocation=_choice(
                one.get("allocation", "even"), get_args(Allocation), f"{where}.allocation"
            ),
            budgets=_sizes(one.get("budgets", []), f"{where}.budgets"),
            seeds=_seeds(one.get("seeds", []), f"{where}.seeds"),
        )
    for method in methods.values():
        if method.network_of is not None and methods[method.network_of].network_of is not None:
            raise ConfigError(
                f"'methods.{method.name}.network_of' names '{method.network_of}', which has no "
                f"networks of its own: name '{methods[method.network_of].network_of}'."
            )
    return methods


def _recipes(
    value: Any, where: str, folder: Path, own_budgets: tuple[Size, ...]
) -> dict[Size, TrainConfig]:
    """Read a method's recipe of each budget."""
    if value is None:
        return {}
    if not own_budgets or "{budget}" not in str(value):
        raise ConfigError(
            f"'{where}.recipe' is a path with {{budget}} in it, and needs networks: own."
        )
    return {
        size: TrainConfig.from_yaml(folder / str(value).replace("{budget}", _file_size(size)))
        for size in own_budgets
    }


def _file_size(size: Size) -> str:
    """A size as recipes' files are called: 100 for 100x100."""
    return str(size[0]) if size[0] == size[1] else shown_size(size)


def _studies(values: Any, methods: dict[str, Method]) -> tuple[Study, ...]:
    """Read the studies, and add their points to the methods."""
    studies = []
    if not isinstance(values, Mapping):
        raise ConfigError("'studies' must be a section with one entry a study.")
    named = tuple(methods)
    for key, given in values.items():
        title, where = str(key), f"studies.{key}"
        one = _section(given, _STUDY_KEYS, where)
        name = str(one.get("method"))
        if name not in named or methods[name].network_of is not None:
            raise ConfigError(f"'{where}.method' must be a method that is trained, got '{name}'.")
        method = methods[name]
        points = []
        for label, settings in _changes(one, where).items():
            point = Method(
                name=f"{title}/{label}",
                title=label,
                recipes=method.recipes,
                settings={**method.settings, **settings},
                sampler=method.sampler,
                allocation=method.allocation,
                study=title,
                budgets=_sizes(one.get("budgets", []), f"{where}.budgets") or method.budgets,
                seeds=_seeds(one.get("seeds", []), f"{where}.seeds") or method.seeds,
            )
            methods[point.name] = point
            points.append(point)
        studies.append(
            Study(title, name, tuple(p.name for p in points), tuple(p.title for p in points))
        )
    return tuple(studies)


def _changes(one: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """Label → settings of a study's points."""
    if ("setting" in one) != ("values" in one) or ("setting" in one) == ("changes" in one):
        raise ConfigError(f"'{where}' needs either 'setting' and 'values', or 'changes'.")
    if "setting" in one:
        setting, values = str(one["setting"]), one["values"]
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise ConfigError(f"'{where}.values' must be a list of values.")
        return {_label(value): {setting: value} for value in values}
    changes = one["changes"]
    if not isinstance(changes, Mapping) or not changes:
        raise ConfigError(f"'{where}.changes' must name at least one change.")
    return {str(k): _settings(v, f"{where}.changes.{k}") for k, v in changes.items()}


def _label(value: Any) -> str:
    """How a study's value is called."""
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def _section(values: Any, known: Iterable[str], where: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} must be a section of settings.")
    for key in values:
        if key not in known:
            raise ConfigError(
                f"Unknown setting '{key}' in {where}{nearest_names(str(key), sorted(known))}."
            )
    return dict(values)


def _settings(values: Any, where: str) -> dict[str, Any]:
    if values is None:
        return {}
    if not isinstance(values, Mapping) or not all(
        isinstance(key, str) and "." in key for key in values
    ):
        raise ConfigError(f"'{where}' must hold dotted settings of a recipe, such as loss.gamma.")
    return dict(values)


def _sizes(values: Any, where: str) -> tuple[Size, ...]:
    """Sizes as recipes write them."""
    if not isinstance(values, list):
        raise ConfigError(f"'{where}' must be a list of sizes, such as [32, 64] or [48x64].")
    # a recipe's own reader of sizes, so that both are written alike
    sizes = TrainConfig().merged({"model.sizes": values}).model.sizes if values else ()
    return tuple(dict.fromkeys(sizes))


def _seeds(values: Any, where: str, *, needed: bool = False) -> tuple[int, ...]:
    if needed and values == []:
        raise ConfigError(f"'{where}' needs at least one.")
    if not isinstance(values, list) or not all(
        isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in values
    ):
        raise ConfigError(f"'{where}' must be a list of whole numbers from 0.")
    return tuple(dict.fromkeys(values))


def _count(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"'{where}' must be a whole number from 1, got {value}.")
    return value


def _folds(values: Any) -> tuple[tuple[str, ...], ...]:
    if (
        not isinstance(values, list)
        or not values
        or not all(isinstance(fold, list) and fold for fold in values)
    ):
        raise ConfigError(
            f"'held_out' must be '{LEAVE_ONE_OUT}' or a list of lists of items, such as [[7], [8]]."
        )
    return tuple(tuple(str(item) for item in fold) for fold in values)


def _sampler(value: Any) -> str | None:
    return None if value is None else find_way(str(value)).name


def _choice(value: Any, choices: Sequence[Any], where: str) -> Any:
    if value not in choices:
        raise ConfigError(f"'{where}' must be one of {', '.join(choices)}, got {value}.")
    return value


def _pixels(size: Size) -> int:
    return size[0] * size[1]
