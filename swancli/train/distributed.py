"""Training on several processes: both encodings in one forward pass, and batch norms over all processes."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from swancli.errors import SwanError
from swancli.machine.processes import Processes
from swancli.model.checkpoint import Model
from swancli.model.textual import MaskedBatchNorm
from swancli.train.batches import Batch, augment


class PairEncoder(nn.Module):
    """Encodes images and captions in one forward pass, as `DistributedDataParallel` needs it."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings of this process's images (b, D) and captions (c, D), L2-normalised."""
        model = self.model
        if batch.maps is None:
            pixels = augment(batch.pixels, batch.views)
            images = model.encode_images(model.settings.preprocessing.normalise(pixels))
        else:
            images = model.encode_maps({depth: values.float() for depth, values in batch.maps.items()})
        if batch.tokens.is_floating_point():
            return images, model.encode_states(batch.tokens.float(), batch.lengths)
        return images, model.encode_captions(batch.tokens, batch.lengths)


def pair_encoder(model: Model, processes: Processes) -> nn.Module:
    """The `PairEncoder` of a model; with several processes its gradients are the mean over them.

    Raises:
        SwanError: as `share_norms`.
    """
    encoder = PairEncoder(model)
    if processes.count == 1:
        return encoder
    share_norms(model)
    # 1x1 convolutions cause it: their gradients have other strides of the same meaning.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
    unused = model.settings.quirks.unused_projection  # item 3
    return DistributedDataParallel(encoder, find_unused_parameters=unused)


class SumOverProcesses(torch.autograd.Function):
    """All-reduce sum whose gradient is the all-reduce sum of the gradients."""

    @staticmethod
    def forward(context: Any, own: torch.Tensor) -> torch.Tensor:
        total = own.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total


class SharedStatistics(nn.modules.batchnorm._BatchNorm):
    """Batch norm with mean and variance over all processes in training.

    torch's own `SyncBatchNorm` works on GPUs only, and cannot be combined with `MaskedBatchNorm`.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Normalised values of any shape (n, C, ...); n may differ between processes."""
        if not self.training:
            return super().forward(values)
        axes = [axis for axis in range(values.dim()) if axis != 1]
        mean, variance, count = self._gathered(values.float(), axes)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        shape = [1, -1, *[1] * (values.dim() - 2)]
        scale = (self.weight * (variance + self.eps).rsqrt()).view(shape)
        return torch.addcmul(self.bias.view(shape), values - mean.view(shape), scale).to(values.dtype)

    def _gathered(
        self, values: torch.Tensor, axes: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean and variance (C,) of all values, and their count per channel.

        Combined from those of each process (Chan, Golub, LeVeque 1979), since a difference of sums of squares
        loses precision. Each process fills its row of a zero matrix, so that the sum has all rows and a
        gradient.
        """
        rank, processes = torch.distributed.get_rank(), torch.distributed.get_world_size()
        variance, mean = torch.var_mean(values, axes, correction=0)
        count = torch.full_like(mean, values.numel() / values.shape[1])
        own = torch.stack([mean, variance, count])
        rows = SumOverProcesses.apply(nn.functional.pad(own[None], (0, 0, 0, 0, rank, processes - 1 - rank)))
        means, variances, counts = rows.unbind(dim=1)
        shares = counts / counts.sum(dim=0)
        mean = (shares * means).sum(dim=0)
        variance = (shares * (variances + (means - mean).square())).sum(dim=0)
        return mean, variance, counts.sum(dim=0)


class SharedBatchNorm(SharedStatistics, nn.BatchNorm2d):
    """`nn.BatchNorm2d` over all processes."""


class SharedFlatBatchNorm(SharedStatistics, nn.BatchNorm1d):
    """`nn.BatchNorm1d` over all processes."""


class SharedMaskedBatchNorm(MaskedBatchNorm, SharedStatistics):
    """`MaskedBatchNorm` over all processes."""


class SharedBatchNormAct(SharedBatchNorm):
    """timm's `BatchNormAct2d`, a batch norm with its dropout and activation, over all processes."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """As in `SharedStatistics`."""
        return self.act(self.drop(super().forward(values)))


SHARED = {
    nn.BatchNorm2d: SharedBatchNorm,
    nn.BatchNorm1d: SharedFlatBatchNorm,
    MaskedBatchNorm: SharedMaskedBatchNorm,
}


def share_norms(model: nn.Module) -> None:
    """Turns trainable norms into norms over all processes; weights and names stay the same.

    Args:
        model: put in training mode; its frozen norms stay as they are.

    Raises:
        SwanError: it has other layers that compute statistics of a batch; names the first.
    """
    for name, layer in model.train().named_modules():
        if not layer.training or isinstance(layer, SharedStatistics) or not _has_batch_statistics(layer):
            continue
        shared = _shared_kind(layer)
        if not shared:
            raise SwanError(
                f"training on several processes: swan cannot share the batch statistics of {name} "
                f"({type(layer).__name__}) between them",
                "train on one process, or freeze the backbone: --freeze",
            )
        layer.__class__ = shared  # which has the same attributes


def _has_batch_statistics(layer: nn.Module) -> bool:
    """Whether a layer is a batch norm, or something like it that keeps a variance of its inputs."""
    kept = getattr(layer, "running_var", None)
    return kept is not None or isinstance(layer, nn.modules.batchnorm._BatchNorm)


def _shared_kind(norm: nn.Module) -> type[SharedStatistics] | None:
    """The kind of norm over all processes that computes the same; None if there is none."""
    layers = sys.modules.get("timm.layers")  # loaded if the model has a network of timm
    kinds = SHARED | ({layers.BatchNormAct2d: SharedBatchNormAct} if layers else {})
    kind = kinds.get(type(norm))
    usual = kind and norm.affine and norm.track_running_stats and norm.momentum is not None
    return kind if usual else None
