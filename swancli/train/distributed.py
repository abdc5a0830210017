"""Training on several processes: both encodings in one forward pass, and batch norms over all processes."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

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
    """The `PairEncoder` of a model; with several processes its gradients are the mean over them."""
    encoder = PairEncoder(model)
    if processes.count == 1:
        return encoder
    model.train()
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


class SharedMaskedBatchNorm(MaskedBatchNorm, SharedStatistics):
    """`MaskedBatchNorm` over all processes."""


SHARED = {nn.BatchNorm2d: SharedBatchNorm, MaskedBatchNorm: SharedMaskedBatchNorm}


def share_norms(model: nn.Module) -> None:
    """Turns trainable norms into norms over all processes; weights and names stay the same."""
    for norm in model.modules():
        if type(norm) in SHARED and norm.training:
            norm.__class__ = SHARED[type(norm)]  # which has the same attributes
