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
from swancli.train.features import Features, encode_feature_captions, encode_features


def validate(
    encoder: Encoder, dataset: Dataset, features: Features | None, progress: Progress, processes: Processes
) -> tuple[Scores, MatchThreshold | None]:
    """Recalls on the validation split, ties at their expected value, and the score of a match there.

    Of several processes each encodes a share of the different images and captions.

    Args:
        encoder: of the model in training.
        dataset: with a validation split.
        features: of frozen towers, from which images and captions are encoded; None to encode them whole.
        progress: called after each batch.
        processes: that validate together.

    Raises:
        FloatingPointError: embeddings contain NaN or infinity.
    """
    rows = dataset.rows_of("val")
    part, numbers = dataset.catalogue.select(rows)
    picture = pd.factorize(dataset.digests(rows))[0]
    first = rows[first_of_each(picture)]
    checkpoint = encoder.checkpoint

    def encode_pictures(share: slice) -> np.ndarray:
        if features:
            return encode_features(encoder, features, first[share], progress)
        return encoder.rows(dataset, first[share], progress)

    def encode_texts(captions: np.ndarray) -> np.ndarray:
        if features and features.has_states:
            return encode_feature_captions(encoder, features, numbers[captions], progress)
        return encoder.captions(part.text[captions], progress, shard=VALIDATION_SHARD)

    images = processes.together(encode_pictures, len(first))[picture]
    if checkpoint.model.settings.quirks.counted_padding:  # item 4: the captions beside a caption count
        captions = encode_texts(np.arange(len(numbers)))
    else:
        wording = number_wordings(checkpoint.tokenizer.encode_all(part.text))
        different = first_of_each(wording)
        captions = processes.together(lambda share: encode_texts(different[share]), len(different))[wording]
    if not (np.isfinite(images).all() and np.isfinite(captions).all()):
        raise FloatingPointError("embeddings contain NaN or infinity")
    match = match_threshold(images, captions, part.image, part.scene)
    return retrieval_scores(embedding_grids(images, captions), part.image), match
