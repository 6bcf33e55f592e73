"""SceneData: a run's windows, shared out over processes."""

from __future__ import annotations

import logging
import time
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from geodeform.config import TrainConfig
from geodeform.deform.coords import Size
from geodeform.models.spec import Sizing, default_scaling
from geodeform.training.cache import (
    SceneCache,
    cache_usage,
    default_cache_folder,
)
from geodeform.training.datasets.base import LabelledDataset, Split, listed
from geodeform.training.windows import (
    Sizes,
    StepSampler,
    TrainWindows,
    ValWindows,
    WindowSettings,
)

_LOG = logging.getLogger(__name__)


class SceneData(LightningDataModule):
    """The run's windows; each process of a DDP training makes its share of every step.

    Args:
        config: The recipe.
        dataset: The dataset.
        split: Which items train and which are held out.

    Attributes:
        config: The recipe, ``optim.steps`` resolved from ``optim.epochs``.
        train_windows: The training windows, a batch a step.
        class_counts: Labelled pixels of each class in the training items.
        largest_shape: (H, W) that holds every training image.
        everything: Whether validation takes every held-out window, not only ``run.val_windows``.
    """

    def __init__(self, config: TrainConfig, dataset: LabelledDataset, split: Split) -> None:
        super().__init__()
        self.everything = False
        began = time.perf_counter()
        cache = SceneCache.by_setting(dataset, config.data.cache)
        scenes = cache.scenes(split.train)
        self._held_out = cache.scenes(split.val)
        self.train_windows = TrainWindows(
            scenes,
            len(dataset.classes),
            default_scaling(config.model.segmenter, len(dataset.bands)),
            _window_settings(config),
        )
        # What each process does again for its own rank: refused before anything is written.
        self.train_windows.share(0, config.run.processes)
        self.class_counts = self.train_windows.class_counts
        self.largest_shape = self.train_windows.largest_shape
        self.steps_per_epoch = self.train_windows.steps_per_epoch
        if config.optim.steps == 0:
            steps = max(1, round(config.optim.epochs * self.steps_per_epoch))
            config = config.merged({"optim.steps": steps})
        self.config = config
        _LOG.info(
            "Data: %s for training, %s held out; %d steps an epoch; read in %.1f s.",
            listed(split.train, 6),
            listed(split.val, 6),
            self.steps_per_epoch,
            time.perf_counter() - began,
        )
        if cache.folder is not None:
            used = [use for use in cache_usage(cache.folder) if use.dataset == dataset.info.name]
            size = sum(use.size_bytes for use in used)
            # the command clears the user's cache folder; one that was named is the user's own
            default = cache.folder == default_cache_folder()
            _LOG.info(
                "Decoded data are kept in %s: %.0f MB of %s%s.",
                cache.folder,
                size / 1e6,
                dataset.info.name,
                f" (geodeform datasets --clear-cache {dataset.info.name})" if default else "",
            )

    @property
    def smallest_sample(self) -> Size:
        """The smallest sampled image of the training."""
        return min(self.config.model.sizes, key=lambda size: size[0] * size[1])

    @property
    def _running(self) -> Trainer:
        assert self.trainer is not None  # Lightning asks for loaders once it has set it
        return self.trainer

    def train_dataloader(self) -> DataLoader[Any]:
        """This process's share of the steps that are still to do: a checkpoint is loaded by now."""
        windows, config = self.train_windows, self.config
        trainer = self._running
        windows.share(trainer.global_rank, trainer.world_size)
        return DataLoader(
            windows,
            batch_size=None,
            sampler=StepSampler(config.optim.steps, trainer.global_step, config.optim.accumulate),
            num_workers=config.data.workers,
            collate_fn=_as_it_is,
            pin_memory=trainer.strategy.root_device.type == "cuda",
            persistent_workers=config.data.workers > 0,
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """This process's share of the held-out windows."""
        most = None if self.everything else self.config.run.val_windows
        val = self.val_windows(most, self._running.global_rank, self._running.world_size)
        return DataLoader(val, batch_size=None, collate_fn=_as_it_is)

    def val_windows(
        self, most: int | None, rank: int = 0, world: int = 1, *, repeated: bool = False
    ) -> ValWindows:
        """Held-out windows, spread evenly; see :class:`ValWindows`."""
        model = self.config.model
        return ValWindows(
            self._held_out,
            self.config.data.window,
            self.train_windows.scaling,
            Sizes(model.size, model.low_res, sizing_of(self.config)),
            crop=self.config.data.crop,
            most=most,
            rank=rank,
            world=world,
            repeated=repeated,
        )


def _as_it_is(item: Any) -> Any:
    """Collate nothing, an item being a batch; the default would turn sizes into lists."""
    return item


def sizing_of(config: TrainConfig) -> Sizing:
    """How windows smaller than the model's are sampled, as the model file says it."""
    return "sides" if config.model.sizing == "sides" else "area"


def _window_settings(config: TrainConfig) -> WindowSettings:
    data, model = config.data, config.model
    return WindowSettings(
        window=data.window,
        crop=data.crop,
        scale=data.scale,
        sizes=model.sizes,
        extra=tuple(zip(data.extra_windows, model.extra_sizes, strict=True)),
        low_res=model.low_res,
        sizing=sizing_of(config),
        halved=model.sample_mode == "area" and model.sampler != "interpolation",
        batch_size=config.optim.batch_size,
        accumulate=config.optim.accumulate,
        balance=data.balance,
        flips=data.flips,
        colour=data.colour,
        uniform_share=model.uniform_part,
        seed=config.run.seed,
    )
