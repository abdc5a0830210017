"""A map of embeddings: t-SNE (van der Maaten and Hinton, JMLR 2008), computed exactly.

scikit-learn has it too, but where scikit-learn is installed, nltk imports it, and every command that reads a
caption starts a second later. Letters in shapes: n items, D embedding.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from swancli.errors import SwanError

PERPLEXITY = 30.0  # roughly the number of neighbours that count
STEPS, EARLY_STEPS = 750, 250  # in early steps neighbours attract each other EXAGGERATION times as much
EXAGGERATION = 12.0
MOMENTUM, EARLY_MOMENTUM = 0.8, 0.5


def map_places(embedding: np.ndarray) -> np.ndarray:
    """float32 (n, 2): items on a plane, similar ones close to each other, equal ones at the same place.

    The same rows in the same order give the same map. Time and memory grow with n squared: 2,000 different
    items take about 12 s on one core, and 100 MB.

    Args:
        embedding: float32 (n, D).

    Raises:
        SwanError: there are fewer than four different items.
    """
    distinct, place = np.unique(embedding, axis=0, return_inverse=True)
    if len(distinct) < 4:
        raise SwanError(f"only {len(distinct)} different embeddings")
    items = torch.from_numpy(distinct)
    items = items - items.mean(dim=0)
    wanted = neighbour_probabilities(items, min(PERPLEXITY, (len(items) - 1) / 3))
    wanted = (wanted + wanted.T) / (2 * len(items))
    return _descend(_first_places(items), wanted).numpy()[place.ravel()]


def neighbour_probabilities(items: torch.Tensor, perplexity: float) -> torch.Tensor:
    """float32 (n, n): how much each item (column) is a neighbour of another (row); rows sum to 1.

    p(j | i) = exp(-b_i d_ij) / sum over k != i of exp(-b_i d_ik), with squared distances d. Bisection finds
    the b_i at which the entropy of row i is log(perplexity).

    Args:
        items: float32 (n, D).
        perplexity: at least 1, below n - 1.
    """
    distance = _squared_distances(items)
    distance /= distance.mean()
    distance.fill_diagonal_(math.inf)
    low, high = torch.full((2, len(items), 1), -30.0).add_(torch.tensor([0.0, 60.0])[:, None, None])
    for _ in range(40):
        middle = (low + high) / 2  # of log b
        probability = torch.softmax(-distance * middle.exp(), dim=1)
        entropy = torch.special.entr(probability).sum(dim=1, keepdim=True)
        wide = entropy > math.log(perplexity)
        low, high = torch.where(wide, middle, low), torch.where(wide, high, middle)
    return probability


def _squared_distances(points: torch.Tensor) -> torch.Tensor:
    square = points.square().sum(dim=1)
    return (square[:, None] + square - 2 * points @ points.T).clamp_(min=0)


def _first_places(items: torch.Tensor) -> torch.Tensor:
    """float32 (n, 2): the first two principal components of centred items, small."""
    left, size, _ = torch.linalg.svd(items, full_matrices=False)
    places = left[:, :2] * size[:2]
    return torch.nn.functional.pad(places, (0, 2 - places.shape[1])) / places[:, 0].std() * 1e-4


def _descend(places: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Gradient descent with momentum and a gain per coordinate, from (n, 2) places."""
    rate = max(len(places) / EXAGGERATION / 4, 50.0)
    change, gain = torch.zeros_like(places), torch.ones_like(places)
    for step in range(STEPS):
        early = step < EARLY_STEPS
        near = _squared_distances(places).add_(1).reciprocal_()
        near.fill_diagonal_(0)
        force = (wanted * (EXAGGERATION if early else 1.0)).sub_(near / near.sum()).mul_(near)
        gradient = 4 * (force.sum(dim=1, keepdim=True) * places - force @ places)
        gain = torch.where(gradient * change < 0, gain + 0.2, gain * 0.8).clamp_(min=0.01)
        change = (EARLY_MOMENTUM if early else MOMENTUM) * change - rate * gain * gradient
        places = places + change
        places = places - places.mean(dim=0)
    return places
