"""Similarities weighed by the other queries: an image near to every caption is a weaker answer to each.

It looks at all queries of a split together, which a search does not have, so it is asked for
(`swan eval --rerank`) and stands apart from the recalls that are compared.
"""

from __future__ import annotations

import numpy as np

from swancli.errors import SwanError

SHARPNESS = 10.0  # chosen on UCM's validation split
CELLS = 10**8  # pairs, at most: 0.8 GB as float64


def reranked_similarity(image: np.ndarray, caption: np.ndarray, sharpness: float = SHARPNESS) -> np.ndarray:
    """The logarithm of how far an image and a caption prefer each other.

    log softmax over captions (of s_ij b) + log softmax over images, with cosines s and sharpness b: the two
    directions that re-ranking in GaLR (Yuan et al., TGRS 2022) joins by ranks, joined here by scores.

    Args:
        image: float32 (N, D) and caption: float32 (M, D), L2-normalised rows.

    Returns:
        float64 (N, M); equal items have exactly equal scores.

    Raises:
        SwanError: there are more than `CELLS` pairs, which would not fit into memory.
    """
    if len(image) * len(caption) > CELLS:
        raise SwanError(
            f"--rerank: {len(image)} images by {len(caption)} captions are too many to weigh together",
            "choose a smaller --split",
        )
    images, image_row, image_count = np.unique(image, axis=0, return_inverse=True, return_counts=True)
    captions, caption_row, caption_count = np.unique(caption, axis=0, return_inverse=True, return_counts=True)
    scores = sharpness * (images.astype(np.float64) @ captions.astype(np.float64).T)
    weight = np.exp(scores)
    of_caption = np.log(image_count @ weight)
    of_image = np.log(weight @ caption_count)
    joined = 2 * scores - of_caption - of_image[:, None]
    return joined[image_row.ravel()][:, caption_row.ravel()]
