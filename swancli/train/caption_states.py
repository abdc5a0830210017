"""What a frozen text transformer makes of captions, computed once: it takes longer than the heads do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import h5py
import numpy as np
import torch

from swancli.machine.device import autocast, move
from swancli.machine.progress import Progress
from swancli.model.bert import Bert
from swancli.model.encoder import CAPTIONS
from swancli.model.inputs import pad_tokens
from swancli.train.batches import number_wordings


@dataclass(frozen=True)
class CaptionStates:
    """States of captions, word piece after word piece; each wording has them once.

    states: float16 (T, H), in memory or in a file.
    start: int64 (U + 1,); the rows of wording u are start[u] to start[u + 1].
    wording: int64 (M,), of each caption; -1 where there is none.
    """

    states: np.ndarray | h5py.Dataset
    start: np.ndarray
    wording: np.ndarray

    def read(self, captions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """The states float16 (n, L, H) of some captions, zero past each end, and their lengths int64 (n,)."""
        parts = [
            torch.from_numpy(self.states[self.start[number] : self.start[number + 1]])
            for number in self.wording[captions]
        ]
        lengths = torch.tensor([len(part) for part in parts])
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True), lengths


def states_of(
    bert: Bert, tokens: Sequence[Sequence[int]], device: torch.device, precision: str, progress: Progress
) -> CaptionStates | None:
    """The states of captions in memory: 2 bytes for each of H values of each word piece.

    Args:
        bert: frozen, on the device.
        tokens: of each caption.
        device: that computes.
        precision: "fp32" or "bf16".
        progress: called with "captions", the number of different ones that are done, and of all.

    Returns:
        None if a state is too large for half precision.
    """
    wording = number_wordings(tokens)
    _, first = np.unique(wording, return_index=True)
    different = [tokens[caption] for caption in first]
    start = np.cumsum([0, *map(len, different)])
    states = np.empty((int(start[-1]), bert.shape.width), np.float16)
    for done, (number, found) in enumerate(encoded(bert, different, device, precision), start=1):
        states[start[number] : start[number + 1]] = found.numpy()
        if done % CAPTIONS == 0 or done == len(different):
            progress("captions", done, len(different))
    return CaptionStates(states, start, wording) if np.isfinite(states).all() else None


def encoded(
    bert: Bert, tokens: Sequence[Sequence[int]], device: torch.device, precision: str
) -> Iterator[tuple[int, torch.Tensor]]:
    """The number of each caption and its states float16 (L, H), on the CPU; in order of length.

    Captions of a like length share a batch, which is then hardly padded.
    """
    order = np.argsort([len(caption) for caption in tokens], kind="stable")
    for place in range(0, len(order), CAPTIONS):
        numbers = order[place : place + CAPTIONS]
        padded, lengths = pad_tokens([tokens[number] for number in numbers])
        with torch.inference_mode(), autocast(device, precision):
            states = bert(move(padded, device), lengths).half().cpu()
        yield from ((int(number), states[row, : lengths[row]]) for row, number in enumerate(numbers))
