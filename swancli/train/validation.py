"""The recalls on the validation split after an epoch, by which the best checkpoint is chosen."""

from __future__ import annotations

import numpy as np
import pandas as pd

from swancli.evaluate.match_threshold import MatchThreshold, match_threshold
from swancli.evaluate.metrics import Scores, retrieval_scores
from swancli.evaluate.similarity import embedding_grids
from swancli.machine.processes import Processes
from swancli.machine.progress import Progress
from swancli.model.encoder import VALIDATION_SHARD, Encoder, first_of_each
from swancli.store.dataset import Dataset
from swancli.train.batches import number_wordings
from swancli.train.features import Features, encode_features


def validate(
    encoder: Encoder, dataset: Dataset, features: Features | None, progress: Progress, processes: Processes
) -> tuple[Scores, MatchThreshold | None]:
    """Recalls on the validation split, ties at their expected value, and the score of a match there.

    Of several processes each encodes a share of the different images and captions.

    Args:
        encoder: of the model in training.
        dataset: with a validation split.
        features: maps of the frozen backbone, from which the images are encoded; None to encode their pixels.
        progress: called after each batch.
        processes: that validate together.

    Raises:
        FloatingPointError: embeddings contain NaN or infinity.
    """
    rows = dataset.rows_of("val")
    part, _ = dataset.catalogue.select(rows)
    picture = pd.factorize(dataset.digests(rows))[0]
    first = rows[first_of_each(picture)]
    checkpoint = encoder.checkpoint

    def encode_pictures(share: slice) -> np.ndarray:
        if features:
            return encode_features(encoder, features, first[share], progress)
        return encoder.rows(dataset, first[share], progress)

    def encode_texts(texts: np.ndarray) -> np.ndarray:
        return encoder.captions(texts, progress, shard=VALIDATION_SHARD)

    images = processes.together(encode_pictures, len(first))[picture]
    if checkpoint.model.settings.quirks.counted_padding:  # item 4: the captions beside a caption count
        captions = encode_texts(part.text)
    else:
        wording = number_wordings([checkpoint.vocabulary.encode(text) for text in part.text])
        texts = part.text[first_of_each(wording)]
        captions = processes.together(lambda share: encode_texts(texts[share]), len(texts))[wording]
    if not (np.isfinite(images).all() and np.isfinite(captions).all()):
        raise FloatingPointError("embeddings contain NaN or infinity")
    match = match_threshold(images, captions, part.image, part.scene)
    return retrieval_scores(embedding_grids(images, captions), part.image), match
