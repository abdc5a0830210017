"""The model as a training step runs it: both encodings of a batch in one pass, on one process or several."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from swancli.machine.processes import Processes
from swancli.model.inputs import normalise
from swancli.model.swan import Swan
from swancli.model.textual import MaskedBatchNorm
from swancli.train.batches import Batch, augment


class PairEncoder(nn.Module):
    """Images and captions of a batch in one forward pass, which `DistributedDataParallel` can follow."""

    def __init__(self, model: Swan) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings of this process's images (b, D) and captions (c, D), L2-normalised."""
        images = self.model.encode_images(normalise(augment(batch.pixels, batch.views)), batch.deep)
        return images, self.model.encode_captions(batch.tokens, batch.lengths)


def pair_encoder(model: Swan, processes: Processes) -> nn.Module:
    """The `PairEncoder` of a model; of several processes one whose gradients are the mean over them."""
    encoder = PairEncoder(model)
    if processes.count == 1:
        return encoder
    model.train()
    share_norms(model)
    # Of 1x1 convolutions, whose gradients are laid out in another way of the same meaning.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
    unused = model.settings.quirks.unused_projection  # item 3
    return DistributedDataParallel(encoder, find_unused_parameters=unused)


class SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor that every process has; its gradient is the sum of what they make of it."""

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
    """Batch norm whose mean and variance in training are those of the values of all processes together.

    torch's own `SyncBatchNorm` takes tensors of a GPU alone, and has no place for `MaskedBatchNorm`.
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
        """Mean and variance (C,) of all values, and their count a channel.

        From each process's own (Chan, Golub, LeVeque 1979), since a difference of sums of squares rounds
        badly. Each puts its own into its row of zeros, so that their sum has all rows, and a gradient.
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


def share_norms(model: nn.Module) -> None:
    """Puts norms over all processes in the place of those that training moves; weights and names stay."""
    for part in list(model.modules()):
        for name, norm in part.named_children():
            if type(norm) in SHARED and norm.training:
                shared = SHARED[type(norm)](norm.num_features, norm.eps, norm.momentum)
                shared.weight, shared.bias = norm.weight, norm.bias
                shared.running_mean, shared.running_var = norm.running_mean, norm.running_var
                shared.num_batches_tracked = norm.num_batches_tracked
                setattr(part, name, shared)


SHARED = {nn.BatchNorm2d: SharedBatchNorm, MaskedBatchNorm: SharedMaskedBatchNorm}
