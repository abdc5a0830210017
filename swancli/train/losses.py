"""Losses on a similarity matrix: the paper's ranking losses, and a contrastive one."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from swancli.machine.device import move


def hinge_loss(
    similarity: torch.Tensor,
    positive: torch.Tensor,
    negative: torch.Tensor,
    *,
    margin: float = 0.2,
    hardest: bool = False,
) -> torch.Tensor:
    """Bidirectional hinge loss (paper, section 3.5; VSE++ for the hardest negatives).

    For every caption c of image i, with similarity s, negatives d of i and negatives j of c:
    sum_d [margin + s(i, d) - s(i, c)]+  +  sum_j [margin + s(j, c) - s(i, c)]+ ; with `hardest` the largest
    term instead of each sum.

    Args:
        similarity: float (B, C), images by captions.
        positive: bool (B, C), the caption describes the image; on the CPU, since counting the pairs would
            make a GPU synchronize.
        negative: bool (B, C), the pair is a mistake; on the CPU.
        margin: on cosine similarity.
        hardest: count only the hardest negatives.

    Returns:
        The sum over all pairs, a scalar.
    """
    image, caption = positive.nonzero(as_tuple=True)
    image, caption, allowed = (move(part, similarity.device) for part in (image, caption, ~negative))
    matched = similarity[image, caption].unsqueeze(1)
    to_captions = (margin + similarity[image] - matched).clamp(min=0).masked_fill(allowed[image], 0)
    to_images = (margin + similarity.T[caption] - matched).clamp(min=0).masked_fill(allowed.T[caption], 0)
    if hardest:
        return to_captions.amax(dim=1).sum() + to_images.amax(dim=1).sum()
    return to_captions.sum() + to_images.sum()


def contrastive_loss(
    similarity: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor, *, temperature: float = 0.07
) -> torch.Tensor:
    """Softmax loss in both directions (InfoNCE; the temperature is that of MoCo, He et al., CVPR 2020).

    For every caption c of image i, with scores s = similarity / temperature, negatives d of i and negatives j
    of c: -log(exp s(i, c) / (exp s(i, c) + sum_d exp s(i, d))), and the same with sum_j exp s(j, c). Other
    captions of the image are in neither sum.

    Args:
        similarity: float (B, C), images by captions.
        positive: as in `hinge_loss`.
        negative: as in `hinge_loss`.
        temperature: of the softmax.

    Returns:
        The sum over all pairs, a scalar.
    """
    image, caption = positive.nonzero(as_tuple=True)
    image, caption, allowed = (move(part, similarity.device) for part in (image, caption, ~negative))
    scores = similarity.float() / temperature
    matched = scores[image, caption]
    wrong = scores.masked_fill(allowed, torch.finfo(scores.dtype).min / 4)
    to_captions = F.softplus(wrong.logsumexp(dim=1)[image] - matched)
    to_images = F.softplus(wrong.logsumexp(dim=0)[caption] - matched)
    return to_captions.sum() + to_images.sum()
