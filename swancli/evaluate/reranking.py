"""Similarities weighted by all other queries: an image close to every caption is a weaker answer to each.

This needs all queries of a split at once, which a search does not have. It is therefore optional
(`swan eval --rerank`) and reported beside the recalls that are compared.
"""

from __future__ import annotations

import numpy as np

from swancli.errors import SwanError

SHARPNESS = 10.0  # chosen on the validation split of UCM
CELLS = 10**8  # at most this many pairs: 0.8 GB as float64


def reranked_similarity(image: np.ndarray, caption: np.ndarray) -> np.ndarray:
    """The logarithm of how much an image and a caption prefer each other.

    log softmax over captions of b s_ij + log softmax over images of b s_ij, with cosines s and `SHARPNESS` b.
    Re-ranking in GaLR (Yuan et al., TGRS 2022) joins the two directions by ranks; here scores are joined.

    Args:
        image: float32 (N, D), L2-normalised rows.
        caption: float32 (M, D), L2-normalised rows.

    Returns:
        float64 (N, M); equal items have exactly equal scores.

    Raises:
        SwanError: there are more than `CELLS` pairs, which may not fit into memory.
    """
    if len(image) * len(caption) > CELLS:
        raise SwanError(
            f"--rerank: {len(image)} images and {len(caption)} captions are too many to weigh together",
            "choose a smaller --split",
        )
    images, image_row, image_count = np.unique(image, axis=0, return_inverse=True, return_counts=True)
    captions, caption_row, caption_count = np.unique(caption, axis=0, return_inverse=True, return_counts=True)
    scores = SHARPNESS * (images.astype(np.float64) @ captions.astype(np.float64).T)
    weight = np.exp(scores)
    of_caption = np.log(image_count @ weight)
    of_image = np.log(weight @ caption_count)
    joined = 2 * scores - of_caption - of_image[:, None]
    return joined[image_row.ravel()][:, caption_row.ravel()]
