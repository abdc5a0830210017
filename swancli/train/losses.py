"""The ranking losses of the paper, on a batch's similarities."""

from __future__ import annotations

import torch

from swancli.machine.device import move


def hinge_loss(
    similarity: torch.Tensor,
    positive: torch.Tensor,
    negative: torch.Tensor | None = None,
    *,
    margin: float = 0.2,
    hardest: bool = False,
) -> torch.Tensor:
    """Bidirectional hinge loss (paper, section 3.5; VSE++ for the hardest negatives).

    For every caption c of image i, with s the similarity, d running over the negatives of i and j over those
    of c: sum_d [margin + s(i, d) - s(i, c)]+  +  sum_j [margin + s(j, c) - s(i, c)]+ ; with `hardest`, the
    largest term in place of each sum.

    Args:
        similarity: float (B, C), images by captions.
        positive: bool (B, C), whether the caption describes the image; on the CPU, since to count the pairs a
            GPU would have to halt.
        negative: bool (B, C), whether the pair is a mistake; None for all that are not positive.

    Returns:
        The sum over all pairs, a scalar.
    """
    image, caption = positive.nonzero(as_tuple=True)
    allowed = positive if negative is None else ~negative
    image, caption, allowed = (move(part, similarity.device) for part in (image, caption, allowed))
    matched = similarity[image, caption].unsqueeze(1)
    to_captions = (margin + similarity[image] - matched).clamp(min=0).masked_fill(allowed[image], 0)
    to_images = (margin + similarity.T[caption] - matched).clamp(min=0).masked_fill(allowed.T[caption], 0)
    if hardest:
        return to_captions.amax(dim=1).sum() + to_images.amax(dim=1).sum()
    return to_captions.sum() + to_images.sum()
