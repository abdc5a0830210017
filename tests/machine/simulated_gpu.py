"""A CUDA GPU without values, for machines that have none: it shows where the host would wait for the GPU.

    with simulated_gpu() as gpu:
        encoder = Encoder(checkpoint, torch.device("cuda"))
        gpu.taken()  # the weights are copied there
        encoder.images(pictures)
        assert gpu.taken() == ["synchronize"]

Its tensors are torch's fake tensors, which have shape, type and device only; those of the host are real. An
operation on tensors of both raises `TwoDevices`, also where torch would copy one of them by itself. These are
recorded as waits: values that are asked for, and copies that are not asynchronous, for which the memory of
the host must be pinned. A shape that depends on values raises `ShapeOfValues`.

A value that is asked for is 1. What is copied to the host is NaN until the host has waited, then random.
`backward` cannot run without a GPU, so each gradient becomes ones. Packed sequences, `nn.GRU`, the fast path
of transformers and bfloat16 do not work at all; `python tests/benchmarks --gpu check` runs them on a GPU.
"""

from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.optim import optimizer
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

aten = torch.ops.aten


class TwoDevices(Exception):
    """An operation has tensors on the host and on the GPU."""


class ShapeOfValues(Exception):
    """The host would wait for values on the GPU, to learn the shape of a result."""


class Fakes(FakeTensorMode):
    """Makes the tensors without values; one mode for all of them, those of copied models included."""

    def __deepcopy__(self, memo):
        return self


class SimulatedGpu(TorchDispatchMode):
    """Runs operations of the host as usual, and those on the GPU without values.

    Attributes:
        fakes: makes the tensors on the GPU.
        waits: what the host waited for so far, in words.
    """

    def __init__(self):
        super().__init__()
        self.fakes = Fakes()
        self.waits = []
        self._pinned = {}  # address of the memory -> a tensor that keeps it
        self._coming = []  # copies to the host that it has not waited for

    def wait(self, what):
        """The host waits until everything queued on the GPU is done."""
        self.waits.append(what)
        with _disable_current_modes(), torch.inference_mode():
            for copy in self._coming:
                copy.copy_(torch.randn(copy.shape))
        self._coming.clear()

    def taken(self):
        """What the host waited for since this was last called."""
        waits, self.waits = self.waits, []
        return waits

    def is_pinned(self, tensor):
        """Whether a host tensor is from `pin_memory`, or part of one that is."""
        return tensor.untyped_storage().data_ptr() in self._pinned

    def pin_memory(self, tensor):
        """A copy that counts as pinned; the tensor itself if it does already."""
        if self.is_pinned(tensor):
            return tensor
        with _disable_current_modes():
            copy = tensor.clone()
        self._pinned[copy.untyped_storage().data_ptr()] = copy
        return copy

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [*_tensors_in(args), *_tensors_in(kwargs.values())]
        there = [tensor for tensor in tensors if isinstance(tensor, FakeTensor)]
        here = [tensor for tensor in tensors if not isinstance(tensor, FakeTensor)]
        target = torch.device(kwargs["device"]) if kwargs.get("device") else None
        if not there and (target is None or target.type == "cpu"):
            with _disable_current_modes():
                return operation(*args, **kwargs)
        if operation.namespace == "aten" and torch.is_inference_mode_enabled() and operation._can_decompose():
            with self:  # what autograd does in other modes
                return operation.decompose(*args, **kwargs)
        if operation is aten._local_scalar_dense.default:
            self.wait("a value")
            return 1
        if operation is aten.copy_.default:
            return self._copy_into(*args, **kwargs)
        if operation is aten._to_copy.default and target:
            return self._copy_to(target, *args, **kwargs)
        if there and any(tensor.dim() for tensor in here):
            shapes = [f"{tuple(tensor.shape)} on {tensor.device}" for tensor in tensors]
            raise TwoDevices(f"{operation}: {', '.join(shapes)}")
        return self._run(operation, *args, **kwargs)

    def _run(self, operation, *args, **kwargs):
        """Runs an operation without values."""
        try:
            with self.fakes:
                return operation(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise ShapeOfValues(str(operation)) from error

    def _copy_to(self, target, source, *, dtype=None, non_blocking=False, **kwargs):
        if target.type == "cpu":
            with _disable_current_modes():
                copy = torch.empty(source.shape, dtype=dtype or source.dtype)
            self._comes(copy, non_blocking)
            return copy
        if not isinstance(source, FakeTensor):
            self._goes(source, non_blocking)
            source = self.fakes.from_tensor(source)
        return self._run(aten._to_copy.default, source, dtype=dtype, **kwargs)

    def _copy_into(self, goal, source, non_blocking=False):
        if not isinstance(goal, FakeTensor):
            self._comes(goal, non_blocking)
            return goal
        if not isinstance(source, FakeTensor):
            self._goes(source, non_blocking)
            source = self.fakes.from_tensor(source)
        return self._run(aten.copy_.default, goal, source)

    def _comes(self, copy, asynchronous):
        """A copy to the host."""
        if copy.is_floating_point():
            with _disable_current_modes():
                copy.fill_(torch.nan)
        self._coming.append(copy)
        if not asynchronous:
            self.wait("a copy to the host")

    def _goes(self, source, asynchronous):
        """A copy to the GPU."""
        if not asynchronous:
            self.wait("a copy to the GPU")
        elif not self.is_pinned(source):
            self.wait("a copy to the GPU of memory that is not pinned")


def _tensors_in(values):
    """The tensors among the arguments of an operation, lists of them included."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (item for item in value if isinstance(item, torch.Tensor))


def gradients_of_ones(loss):
    """In place of `backward`: ones as the gradient of each weight that the loss depends on."""
    seen, waiting = {None}, [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
        weight = getattr(node, "variable", None)
        if weight is not None:
            weight.grad = torch.ones_like(weight) if weight.grad is None else weight.grad + 1


@contextmanager
def simulated_gpu():
    """Replaces the functions of torch that need a real GPU; yields the `SimulatedGpu`."""
    gpu = SimulatedGpu()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    kinds = [*optimizer._foreach_supported_types, FakeTensor]
    try:
        with (
            # As functions, since operations of the thread that reads ahead do not come to `gpu`.
            patch.object(torch.Tensor, "pin_memory", lambda tensor: gpu.pin_memory(tensor)),
            patch.object(torch.Tensor, "is_pinned", lambda tensor: gpu.is_pinned(tensor)),
            patch.object(torch.Tensor, "backward", gradients_of_ones),
            patch.object(torch.cuda, "synchronize", lambda *_: gpu.wait("synchronize")),
            patch.object(torch.utils, "swap_tensors", lambda *_: None),  # of a model that is there already
            # Many weights at a time, as on a GPU.
            patch.object(optimizer, "_foreach_supported_types", kinds),
            patch.object(_foreach_utils, "_foreach_supported_types", kinds),
            gpu.fakes,
            gpu,
        ):
            yield gpu
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
