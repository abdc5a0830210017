"""The recalls on the validation split after an epoch, by which the best checkpoint is chosen."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from swancli.evaluate.match_threshold import MatchThreshold, match_threshold
from swancli.evaluate.metrics import Scores, retrieval_scores
from swancli.machine.processes import Processes
from swancli.machine.progress import Progress
from swancli.model.encoder import VALIDATION_SHARD, encode_captions, encode_images, first_of_each
from swancli.model.swan import Swan
from swancli.store.dataset import Dataset
from swancli.train.batches import number_wordings
from swancli.train.features import Features, encode_features
from swancli.train.nan_guard import UnsoundWeightsError
from swancli.vocab.vocabulary import Vocabulary


def validate(
    model: Swan,
    dataset: Dataset,
    features: Features | None,
    vocabulary: Vocabulary,
    device: torch.device,
    precision: str,
    progress: Progress,
    processes: Processes,
) -> tuple[Scores, MatchThreshold | None]:
    """Recalls on the validation split, ties at their expected value, and the score of a match there.

    Of several processes each encodes a share of the different images and captions.

    Raises:
        UnsoundWeightsError: embeddings are not numbers.
    """
    rows = dataset.rows_of("val")
    part, _ = dataset.catalogue.select(rows)
    options = {"device": device, "precision": precision, "progress": progress}
    digests = dataset.digests(rows)
    picture = np.arange(len(rows)) if digests is None else pd.factorize(digests)[0]
    first = first_of_each(picture)

    def encode_pictures(share: slice) -> np.ndarray:
        own = first[share]
        known = None if digests is None else digests[own]
        if features:
            return encode_features(model, features, rows[own], known, **options)
        return encode_images(model, dataset.image, rows[own], digests=known, **options)

    def encode_texts(texts: np.ndarray) -> np.ndarray:
        return encode_captions(model, vocabulary, texts, shard=VALIDATION_SHARD, **options)

    images = processes.together(encode_pictures, len(first))[picture]
    if model.settings.quirks.counted_padding:  # item 4: the captions beside a caption count
        captions = encode_texts(part.text)
    else:
        wording = number_wordings([vocabulary.encode(text) for text in part.text])
        texts = part.text[first_of_each(wording)]
        captions = processes.together(lambda share: encode_texts(texts[share]), len(texts))[wording]
    if not (np.isfinite(images).all() and np.isfinite(captions).all()):
        raise UnsoundWeightsError
    match = match_threshold(images, captions, part.image, part.scene)
    return retrieval_scores(images, captions, part.image), match
