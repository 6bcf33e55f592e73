"""The Lightning task: one step of training, and validation at full resolution.

Training and inference share every stage: this calls the same :class:`DeformSegmenter` and the same
reverse map as the pipeline does.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from geodeform.config import OptimConfig, TrainConfig
from geodeform.deform.coords import Size
from geodeform.deform.grid import GridKernel
from geodeform.deform.reverse import reverse_scores
from geodeform.deform.sample import area_downsample, sample_labels
from geodeform.errors import ConfigError, GeodeformError
from geodeform.evaluation.metrics import Confusion
from geodeform.models.deform_segmenter import DeformSegmenter, Prediction
from geodeform.models.density_net import FixedDensity
from geodeform.models.error_net import error_loss, spacing_in_view
from geodeform.models.spec import ModelSpec, Sampler
from geodeform.training.losses import DeformLoss, LossParts, points_through_reverse_map
from geodeform.training.schedules import gamma_at, sigma_at
from geodeform.training.windows import Batch, Windows, to_network

with warnings.catch_warnings():
    # torchgeo imports a dozen libraries; what they deprecate is not this program's news.
    warnings.simplefilter("ignore")
    try:
        from torchgeo.tasks import BaseTask  # torchgeo ≥ 0.10
    except ImportError:
        from torchgeo.trainers import BaseTask


_ERROR_POINTS = 1024  # full-resolution places of each window that the error net learns from


class GeodeformTask(BaseTask):
    """Trains a :class:`DeformSegmenter` and validates it at full resolution.

    Logged: ``train_loss`` with its parts, ``lr``, and for each validation ``val_miou`` (full
    resolution, after the reverse map: THE figure), ``val_miou_deformed`` (at the samples),
    ``val_accuracy`` and ``val_iou_CLASS``; of a learned sampler that also trains uniformly the same
    with the suffix ``_uniform``.

    Args:
        config: The recipe.
        spec: The model to build.
        weights: Encoder weights to begin with.
        class_counts: Labelled pixels of each class in the training scenes.
        fixed_density: (1, 1, hd, wd) that every window is sampled by; the sampler ``fixed`` only,
            and None where a checkpoint brings it.
        teacher: Model to learn from beside the labels.

    Raises:
        ConfigError: If the teacher has other classes or bands.
    """

    # Checkpoints hold tensors and plain values only; the recipe lies beside them as YAML.
    ignore = ("config", "spec", "weights", "class_counts", "fixed_density", "teacher")
    monitor = "val_miou"
    mode = "max"
    model: DeformSegmenter

    def __init__(
        self,
        config: TrainConfig,
        spec: ModelSpec,
        *,
        weights: Any = None,
        class_counts: NDArray[np.int64] | None = None,
        fixed_density: Tensor | None = None,
        teacher: DeformSegmenter | None = None,
    ) -> None:
        self.config = config
        self.spec = spec
        self._weights = weights
        self._class_counts = class_counts
        self._fixed_density = fixed_density
        self._last_batch: Batch | None = None
        # In a tuple, so that it is no submodule and never saved or trained.
        self._teacher = () if teacher is None else (_as_teacher(teacher, spec),)
        super().__init__()

    def configure_models(self) -> None:
        """Build the network, and its moving average where the recipe wants one."""
        model = DeformSegmenter(self.spec, weights=self._weights)
        if isinstance(model.density_net, FixedDensity) and self._fixed_density is not None:
            model.density_net.density.copy_(self._fixed_density)
        # Depthwise convolutions run three times faster on CPUs with channels last.
        self.model = model.to(memory_format=torch.channels_last)
        self.averaged: AveragedModel | None = None
        if self.config.optim.ema:
            average: Any = _Average(self.config.optim.ema)  # torch's annotation wants a function
            self.averaged = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
            self.averaged.requires_grad_(False)  # DDP would wait for gradients that never come

    def configure_losses(self) -> None:
        """Build the loss."""
        loss, model = self.config.loss, self.config.model
        self._has_edge_loss = model.sampler in ("joint", "edge_learned")
        self.loss = DeformLoss(
            len(self.spec.classes),
            kind=loss.kind,
            focal_gamma=loss.focal_gamma,
            class_weights=class_weights(loss.class_weights, self._class_counts),
            gamma=loss.gamma if self._has_edge_loss else 0.0,
            edge_blur=loss.edge_blur,
            edge_share=loss.edge_share,
            edge_class_weights=class_weights(loss.edge_weights, self._class_counts),
            edge_weight=model.edge_weight,
            jacobian=loss.jacobian,
            points=loss.points,
            distill=loss.distill,
        )

    def configure_metrics(self) -> None:
        """Count nothing yet: (sampler, resolution) → counts over the validation windows."""
        samplers: list[Sampler] = [self.spec.sampler]
        if self.config.model.uniform_part > 0:
            samplers = list(self.spec.samplers)
        self.samplers = samplers
        self.confusions: dict[tuple[Sampler, str], Confusion] = {}

    def configure_optimizers(self) -> Any:
        """Adam(W) with a schedule that moves every step; weights decay, biases and norms do not."""
        optim = self.config.optim
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": optim.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        kind = torch.optim.AdamW if optim.optimiser == "adamw" else torch.optim.Adam
        optimiser = kind(groups, lr=optim.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: learning_rate_factor(step, optim)
        )
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip density net and segmenter each by its own norm.

        γ makes the density net's gradients a hundred times larger: one norm for both would
        scale the segmenter's away in every batch that has an edge loss.
        """
        m = self.model
        for net in (m.density_net, m.error_net, m.grid_net, m.resizer, m.segmenter):
            parameters = [] if net is None else list(net.parameters())
            if parameters and gradient_clip_val:
                nn.utils.clip_grad_norm_(parameters, gradient_clip_val)

    @property
    def network(self) -> DeformSegmenter:
        """The weights that validation and the model file use: the average where there is one."""
        if self.averaged is not None:
            return cast(DeformSegmenter, self.averaged.module)
        return self.model

    @property
    def gamma(self) -> float | None:
        """Weight of the edge loss at this step; None where it stays the recipe's."""
        loss = self.config.loss
        if loss.gamma_end is None or not self._has_edge_loss:
            return None
        steps = self.config.optim.steps
        return gamma_at(self.global_step, steps, start=loss.gamma, end=loss.gamma_end)

    @property
    def kernel(self) -> GridKernel:
        """Kernel of equation 3 that this step trains with; validation always takes the model's."""
        model, last = self.config.model, self.model.kernel
        steps = self.config.optim.steps
        sigma = sigma_at(self.global_step, steps, start=model.sigma_start, end=last.sigma)
        return replace(last, sigma=sigma)

    def on_fit_start(self) -> None:
        """Bring the teacher, which is no part of the checkpoint, to the device."""
        for teacher in self._teacher:
            teacher.to(self.device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Tie chance to the item, so that a resumed run draws what an uninterrupted one does."""
        torch.manual_seed(self.config.run.seed * 1_000_003 + batch["index"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One part's loss; the optimiser is Lightning's work."""
        sampler: Sampler = "uniform" if batch["uniform"] else self.spec.samplers[0]
        parts = [self._losses(windows, sampler, batch) for windows in batch["groups"]]
        loss = _mean_parts(parts)
        if not bool(torch.isfinite(loss.total)):
            self._stop(f"The loss is {float(loss.total.detach())}", batch)
        self._last_batch = batch
        self._log("train_loss", loss.total)
        self._log("train_segmentation", loss.segmentation)
        if loss.edge is not None:
            self._log("train_edge", loss.edge)
        if loss.teacher is not None:
            self._log("train_teacher", loss.teacher)
        if loss.errors is not None:
            self._log("train_errors", loss.errors)
        self._log("lr", self.lr_schedulers().get_last_lr()[0])
        return loss.total

    def _losses(self, windows: Windows, sampler: Sampler, batch: Batch) -> LossParts:
        image, labels = to_network(windows["image"], windows["table"]), windows["labels"]
        prediction = self.model(
            image,
            windows["size"],
            low_res=windows["low_res"],
            sampler=sampler,
            labels=labels,
            kernel=self.kernel,
        )
        self._check_grid(prediction, batch)
        errors = None if batch["extra"] else self._error_loss(image, windows, prediction)
        view = None
        for teacher in self._teacher:
            with torch.no_grad():
                size = self.config.loss.teacher_size or teacher.spec.sample_size
                seen = teacher(image, size, sampler="uniform")
                view = seen.logits.float().softmax(1)
        parts: LossParts = self.loss(
            prediction, labels, edge=sampler == "learned", gamma=self.gamma, teacher=view
        )
        return parts if errors is None else parts.with_errors(errors)

    def _error_loss(self, image: Tensor, windows: Windows, prediction: Prediction) -> Tensor | None:
        """What the error net makes of the prediction; nothing flows back into the prediction."""
        net = self.model.error_net
        if net is None:
            return None
        view = area_downsample(image, windows["low_res"])
        places = points_through_reverse_map(
            prediction.logits.detach(), prediction.grid.detach(), _ERROR_POINTS
        )
        labels = sample_labels(windows["labels"], places.positions.unsqueeze(1)).squeeze(1)
        return error_loss(
            net(view),
            spacing_in_view(windows["low_res"], windows["size"]),
            places.positions,
            labels,
            places.log_probabilities.argmax(1) != labels,
        )

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop before a gradient that is not finite spoils the weights."""
        if self.trainer.precision == "16-mixed":
            return  # its scaler skips such steps, and lowers the scale
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        norms = torch._foreach_norm(grads)
        if not bool(torch.isfinite(torch.stack([norm.float() for norm in norms]).sum())):
            self._stop("A gradient is not finite", self._last_batch)

    def _check_grid(self, prediction: Prediction, batch: Batch) -> None:
        """Stop before labels are looked up at places that are no numbers."""
        if not bool(torch.isfinite(prediction.grid).all()):
            self._stop("The sampling grid is not finite", batch)

    def _stop(self, problem: str, batch: Batch | None) -> NoReturn:
        """Save the batch and end the training."""
        path = (
            Path(self.config.run.out)
            / f"nonfinite_step{self.global_step}_rank{self.global_rank}.pt"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(batch, path)
        raise GeodeformError(
            f"{problem} at step {self.global_step}: training diverged. The batch is saved in "
            f"{path}. Start again with a lower optim.lr, or with optim.clip."
        )

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then move the average: before any checkpoint of this step is written."""
        super().optimizer_step(*args, **kwargs)
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)

    def on_validation_epoch_start(self) -> None:
        """Begin to count anew."""
        n = len(self.spec.classes)
        self.confusions = {(s, r): Confusion(n) for s in self.samplers for r in ("full", "sampled")}

    def predict_window(self, windows: Windows, sampler: Sampler) -> WindowView:
        """Predict one held-out window at full resolution, with the weights that the file gets."""
        labels = windows["labels"]
        full: Size = (labels.shape[1], labels.shape[2])
        p = self.network.eval()(
            to_network(windows["image"], windows["table"]),
            windows["size"],
            low_res=windows["low_res"],
            sampler=sampler,
            labels=labels,
        )
        batch: Batch = {
            "groups": [windows], "uniform": sampler == "uniform", "extra": False, "index": 0
        }  # fmt: skip
        self._check_grid(p, batch)
        scores = p.logits[0].float().softmax(0).cpu().numpy()  # C,h,w
        predicted, _ = reverse_scores(p.grid[0].float().cpu().numpy(), scores, full)
        return WindowView(p, scores.argmax(0).astype(np.uint8), predicted)

    def validation_step(self, batch: Windows, batch_idx: int) -> None:
        """Count one window's full-resolution and sampled predictions against its labels."""
        labels = batch["labels"]
        for sampler in self.samplers:
            view = self.predict_window(batch, sampler)
            self.confusions[sampler, "full"].add(labels[0].cpu().numpy(), view.full)
            sampled = sample_labels(labels, view.prediction.grid)[0].cpu().numpy()
            self.confusions[sampler, "sampled"].add(sampled, view.sampled)

    def on_validation_epoch_end(self) -> None:
        """Log the figures, pooled over windows and processes."""
        if self.trainer.world_size > 1:
            for confusion in self.confusions.values():
                counts = torch.from_numpy(confusion.counts).to(self.device)
                torch.distributed.all_reduce(counts)
                confusion.counts = counts.cpu().numpy()
        for sampler in self.samplers:
            suffix = "" if sampler == self.samplers[0] else f"_{sampler}"
            for name, value in self.figures(sampler).items():
                self._log(f"{name}{suffix}", value)

    def figures(self, sampler: Sampler) -> dict[str, float]:
        """Return the last validation's figures of a sampler, 0…1; classes without pixels left out.

        Args:
            sampler: One of :attr:`samplers`.
        """
        full, sampled = self.confusions[sampler, "full"], self.confusions[sampler, "sampled"]
        figures = {
            "val_miou": full.miou(),
            "val_miou_deformed": sampled.miou(),
            "val_accuracy": full.accuracy(),
        }
        for name, iou, present in zip(
            self.spec.classes.names, full.iou(), full.evaluated(), strict=True
        ):
            if present:
                figures[f"val_iou_{name}"] = float(iou)
        return figures

    def _log(self, name: str, value: Any) -> None:
        # Values are those of all processes already: losses are totals, counts are summed.
        # Validation's figures are alike in all processes: their mean is what Lightning asks for.
        alike = self.trainer.world_size > 1 and name.startswith("val_")
        self.log(name, value, batch_size=self.config.optim.batch_size, sync_dist=alike)


class WindowView(NamedTuple):
    """What is predicted of one window.

    Attributes:
        prediction: Of a batch of one.
        sampled: (h, w) class ids at the samples.
        full: (H, W) class ids at full resolution.
    """

    prediction: Prediction
    sampled: NDArray[np.uint8]
    full: NDArray[np.uint8]


def _mean_parts(parts: list[LossParts]) -> LossParts:
    """Mean of each part over the groups of a batch."""
    if len(parts) == 1:
        return parts[0]

    def mean(values: list[Tensor | None]) -> Tensor | None:
        known = [value for value in values if value is not None]
        return torch.stack(known).mean() if known else None

    return LossParts(
        torch.stack([p.total for p in parts]).mean(),
        torch.stack([p.segmentation for p in parts]).mean(),
        mean([p.edge for p in parts]),
        mean([p.teacher for p in parts]),
        mean([p.errors for p in parts]),
    )


class _Average:
    """Exponential moving average whose decay starts low, so that a short run can use it."""

    def __init__(self, decay: float) -> None:
        self.decay = decay

    @torch.no_grad()
    def __call__(self, averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        decay = min(self.decay, (1 + int(count)) / (10 + int(count)))
        for mean, value in zip(averaged, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:  # BatchNorm's step counter
                mean.copy_(value)


def learning_rate_factor(step: int, optim: OptimConfig) -> float:
    """Return the factor on the highest learning rate at a step, 0…1.

    Linear warm-up, then cosine to zero, two drops to a tenth (at 60 % and 85 %), or constant.
    """
    if step < optim.warmup:
        return (step + 1) / (optim.warmup + 1)
    share = (step - optim.warmup) / max(1, optim.steps - optim.warmup)
    if optim.schedule == "cosine":
        return float(0.5 * (1 + np.cos(np.pi * min(1.0, share))))
    if optim.schedule == "step":
        return 1.0 if share < 0.6 else 0.1 if share < 0.85 else 0.01
    return 1.0


def class_weights(
    kind: Literal["none", "sqrt", "inverse"],
    counts: NDArray[np.int64] | None,
) -> Tensor | None:
    """Return (C,) weights with mean 1 from the classes' pixel counts; None for equal ones.

    A class without a pixel weighs as much as the rarest that has one.
    """
    if kind == "none" or counts is None or not counts.any():
        return None
    frequency = counts / counts.sum()
    frequency = np.maximum(frequency, frequency[frequency > 0].min())
    weights = frequency ** (-0.5 if kind == "sqrt" else -1.0)
    return torch.from_numpy((weights / weights.mean()).astype(np.float32))


def _as_teacher(teacher: DeformSegmenter, spec: ModelSpec) -> DeformSegmenter:
    """Check that a model can teach another, and freeze it."""
    its = teacher.spec
    pairs = {
        "classes": (its.classes.names, spec.classes.names),
        "bands": (its.bands, spec.bands),
        "scaling": (its.scaling, spec.scaling),
    }
    for what, (theirs, ours) in pairs.items():
        # scalings of two versions may be rounded otherwise, as the packaged model's is
        same = its.scaling.is_close(spec.scaling) if what == "scaling" else theirs == ours
        if not same:
            raise ConfigError(
                f"The teacher {teacher.name} cannot teach this model: its {what} are {theirs}, "
                f"the model's are {ours}."
            )
    if "uniform" not in teacher.spec.samplers:
        raise ConfigError(
            f"The teacher {teacher.name} was never trained with uniform sampling; give another."
        )
    return teacher.eval().requires_grad_(False)


def parameter_count(module: nn.Module) -> int:
    """Return how many numbers a module learns."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
