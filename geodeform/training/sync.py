"""BatchNorm over all processes of a DDP training, so that many small shares act as one batch.

torch's ``SyncBatchNorm`` needs GPUs, and its own conversion drops the activation of timm's fused
``BatchNormAct2d``; timm's conversion keeps it. On CPUs every BatchNorm is given the features of all
processes and its own part of the result goes on: exact, with any kind of BatchNorm, and good enough
for the few processes that CPU training has.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch.plugins.layer_sync import LayerSync
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

from geodeform.errors import ConfigError
from geodeform.training.collectives import gathered, together


class BatchNormSync(LayerSync):
    """Lightning's plug-in that joins the batch statistics of all processes.

    Args:
        device: Kind of device that trains, ``cpu`` or ``cuda``.
    """

    def __init__(self, device: str) -> None:
        self.device = device

    def apply(self, model: nn.Module) -> nn.Module:
        """Convert a model's BatchNorms in place; parameters and names of states stay."""
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        if self.device == "cpu":
            for norm in norms:
                norm.register_forward_pre_hook(_gather)
                norm.register_forward_hook(_take_own)
            return model
        if any(isinstance(norm, nn.SyncBatchNorm) for norm in norms):
            return model  # converted before; a second conversion would lose activations
        from timm import layers

        converted: nn.Module = layers.convert_sync_batchnorm(model)  # type: ignore[attr-defined, no-untyped-call]
        return converted

    def revert(self, model: nn.Module) -> nn.Module:
        """Leave the model as it is: outside training, and without processes, nothing is joined."""
        return model


def _gather(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor] | None:
    """Put the features of all processes one after the other along the batch; differentiable."""
    if not (module.training and together()):
        return None
    (features,) = args
    shapes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(shapes, tuple(features.shape))
    if len(set(shapes)) > 1:
        raise ConfigError(
            "Images of varying size cannot train in several CPU processes: use --devices 1."
        )
    return (gathered(features),)


def _take_own(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """Keep this process's part of the batch."""
    if not (module.training and together()):
        return output
    part = len(output) // dist.get_world_size()
    return output.narrow(0, part * dist.get_rank(), part)
