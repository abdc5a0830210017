"""Search of embeddings.h5: `swan query "two tennis courts beside a road"`, and `open_search` in Python."""

from __future__ import annotations

import fnmatch
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from swancli.errors import SwanError
from swancli.evaluate.match_threshold import MatchThreshold, match_threshold
from swancli.machine.device import choose_device
from swancli.model.checkpoint import load_maker
from swancli.model.encoder import Encoder
from swancli.query.index import open_index
from swancli.query.questions import (
    Answer,
    BaseSearcher,
    Hit,
    Least,
    Question,
    Scope,
    absent_error,
    no_image_error,
)
from swancli.query.ranking import Ranking, exact_ranking
from swancli.store.catalogue import Catalogue
from swancli.store.embeddings import Embeddings, open_embeddings
from swancli.store.vectors import check_normalised, mapped
from swancli.workspace import Run

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

HELD_PARTS = 2  # the newest filters, whose vectors are kept in memory beside those of all images


class Searcher(BaseSearcher):
    """An open embeddings file and the encoder that made it, ready to answer; see `open_search`.

    Args:
        embeddings: an open file.
        encoder: of the checkpoint that made the embeddings.
        index: what searches all images; None for exact search.
    """

    def __init__(self, embeddings: Embeddings, encoder: Encoder, index: Ranking | None = None) -> None:
        super().__init__(encoder, embeddings.made_by.match)
        self.embeddings = embeddings
        self.rendering = replace(embeddings.rendering, lenient=True)
        self.catalogue = catalogue = embeddings.catalogue
        self._index = index
        self._by_image = np.argsort(catalogue.image, kind="stable")  # captions, image by image
        self._described = catalogue.image[self._by_image]
        self._whole = cache(self._new_ranking)
        self._part = lru_cache(HELD_PARTS)(self._new_ranking)

    def __call__(
        self,
        *texts: str,
        image: str | PathLike[str] | Image | np.ndarray | None = None,
        not_: str | Sequence[str] = (),
        top_k: int = 10,
        threshold: Least = -1.0,
        scene: str | Sequence[str] = (),
        split: str | None = None,
        files: str | None = None,
        captions: bool = False,
    ) -> pd.DataFrame:
        """The images that match a text or an image best, as a table; like `swan query`.

        It warns about words that are not in the vocabulary.

        Args:
            texts: what to look for; several texts are averaged.
            image: what to look for, instead of a text: a path, a PIL image or a uint8 (H, W, 3) array.
            not_: one or several texts to keep away from.
            top_k: number of rows of the table, at most.
            threshold: the minimum score; "auto" for that of a match among the images that are searched.
            scene: only images of this scene, or of one of these scenes.
            split: only images of this split.
            files: only images whose file name matches this shell pattern, as in "harbor_*".
            captions: rank captions instead of images, each text once.

        Returns:
            Columns rank (from 1), score (cosine similarity), path (of the picture; only its file name if the
            folder is not known), scene and caption (the first one of an image).

        Raises:
            SwanError: the question cannot be asked, or the filters leave nothing to rank.
        """
        question = Question(texts, _several(not_))
        if bool(texts) == (image is not None) or (not_ and not texts):
            raise SwanError("nothing to search for, or more than one way to ask", "give texts, or image=")
        if not all(isinstance(text, str) for text in question.words):
            raise SwanError(
                "a question is made of texts", 'give them one by one: search("a river", "a bridge")'
            )
        if top_k < 1:
            raise SwanError(f"top_k {top_k}: less than 1")
        scope = Scope("captions" if captions else "images", top_k, threshold, _several(scene), split, files)
        if image is not None:
            answer = self.ask_image(image, "image", scope)
        else:
            (answer,) = self.ask_texts([question], scope)
        if answer.error:
            raise answer.error
        if answer.unknown:
            warnings.warn(f"words that the model does not know: {', '.join(answer.unknown)}", stacklevel=2)
        return self._table(answer)

    def _table(self, answer: Answer) -> pd.DataFrame:
        import pandas as pd

        folder = Path(self.embeddings.pictures)
        known = self.embeddings.pictures and folder.is_dir()
        paths = [
            str(folder / hit.filename) if known and hit.filename else hit.filename for hit in answer.hits
        ]
        rows = [
            (hit.rank, hit.score, path, hit.scene, next(iter(hit.captions), None))
            for hit, path in zip(answer.hits, paths, strict=True)
        ]
        return pd.DataFrame(rows, columns=["rank", "score", "path", "scene", "caption"])

    def close(self) -> None:
        """Closes the embeddings file; leaving a `with` block does it too."""
        self.embeddings.image.file.close()

    def __enter__(self) -> Searcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask_row(self, row: int, scope: Scope) -> Answer:
        """What is most similar to one of the embedded images; raises as `ask_image` does."""
        return self.ask_vector(self.embeddings.image[row : row + 1], self.catalogue.filename[row], scope)

    def _measured_threshold(self) -> MatchThreshold | None:
        rows = self.catalogue.image_rows("val")
        part, captions = self.catalogue.select(rows)
        image, caption = mapped(self.embeddings.image)[rows], mapped(self.embeddings.caption)[captions]
        for stored, vectors, places in (
            (self.embeddings.image, image, rows),
            (self.embeddings.caption, caption, captions),
        ):
            check_normalised(vectors, f"{stored.file.filename}: {stored.name}", places)
        return match_threshold(image, caption, part.image, part.scene)

    def count(self, scope: Scope) -> int:
        return self.ranking(scope).size

    def ranking(self, scope: Scope) -> Ranking:
        """The search of a scope; raises as `ask_image` does."""
        rankings = self._part if scope.narrowed else self._whole
        return rankings(replace(scope, top_k=0, threshold=0.0))

    def _new_ranking(self, scope: Scope) -> Ranking:
        images = image_rows(self.catalogue, scope)
        if scope.find == "captions":
            return exact_ranking(self.embeddings.caption, self._caption_rows(images), self.encoder.device)
        if images is None and self._index:
            return self._index
        rows = np.arange(len(self.embeddings.image)) if images is None else images
        return exact_ranking(self.embeddings.image, rows, self.encoder.device)

    def _caption_rows(self, images: np.ndarray | None) -> np.ndarray:
        """int64 (n,), ascending: the first caption of each distinct text, of some images or of all.

        Raises:
            SwanError: there are no captions.
        """
        text, image = self.catalogue.text, self.catalogue.image
        rows = np.arange(len(text)) if images is None else np.flatnonzero(np.isin(image, images))
        if not len(rows):
            raise SwanError(
                "there are no captions to rank",
                "embed a data set with captions, or lines of text: swan embed --texts FILE",
            )
        first = dict(zip(text[rows[::-1]], rows[::-1], strict=True))
        return np.sort(np.fromiter(first.values(), np.int64, len(first)))

    def _hits(self, vectors: np.ndarray, scope: Scope) -> Iterator[tuple[Hit, ...]]:
        hit = self._image_hit if scope.find == "images" else self._caption_hit
        for rows, scores in self.ranking(scope).best(vectors, scope.top_k, scope.threshold):
            found = zip(rows.tolist(), scores.tolist(), strict=True)
            yield tuple(hit(rank, row, score) for rank, (row, score) in enumerate(found, start=1))

    def _image_hit(self, rank: int, row: int, score: float) -> Hit:
        catalogue = self.catalogue
        first, last = np.searchsorted(self._described, (row, row + 1))
        captions = tuple(catalogue.text[self._by_image[first:last]])
        return Hit(rank, row, score, catalogue.filename[row], catalogue.scene[row], captions)

    def _caption_hit(self, rank: int, row: int, score: float) -> Hit:
        catalogue, image = self.catalogue, int(self.catalogue.image[row])
        filename, scene = (catalogue.filename[image], catalogue.scene[image]) if image >= 0 else ("", None)
        return Hit(rank, image, score, filename, scene, (catalogue.text[row],))


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    """One name or several, as a tuple."""
    return (names,) if isinstance(names, str) else tuple(names)


def image_rows(catalogue: Catalogue, scope: Scope) -> np.ndarray | None:
    """int64 (n,), ascending: the images that the filters of a scope leave; None for all.

    Raises:
        SwanError: the filters leave none.
    """
    if not scope.narrowed:
        return None
    rows = catalogue.image_rows(scope.split)
    if not len(rows):
        raise absent_error("split", scope.split, catalogue.split)
    for scene in scope.scenes:
        if scene not in catalogue.scene:
            raise absent_error("scene", scene, catalogue.scene)
    if scope.scenes:
        rows = rows[np.isin(catalogue.scene[rows].astype(str), scope.scenes)]
    if not len(rows):
        raise no_image_error(scope)
    if not scope.files:
        return rows
    if scope.files in catalogue.filename[rows]:  # a name such as tile[0].jpg is no pattern
        return rows[catalogue.filename[rows] == scope.files]
    matches = re.compile(fnmatch.translate(scope.files)).match
    named = rows[[bool(matches(name)) for name in catalogue.filename[rows]]]
    if not len(named):
        raise SwanError(
            f"--files {scope.files!r}: none of {len(rows)} images has such a name",
            f"match whole names as they are stored, such as {catalogue.filename[rows[0]]}",
        )
    return named


def open_search(
    path: str | PathLike[str],
    device: str = "auto",
    *,
    checkpoint: str | PathLike[str] | Run | None = None,
    vocab: str | PathLike[str] | None = None,
    exact: bool = False,
    texts_only: bool = False,
) -> Searcher:
    """Opens an embeddings file and the checkpoint that made it; call the returned searcher with a query.

    Args:
        path: the embeddings file.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps"; auto uses a GPU if there is one.
        checkpoint: path of the checkpoint, or its name as for `Encoder`, if it has been moved; None for the
            path in the embeddings file.
        vocab: the vocabulary of a published checkpoint, likewise.
        exact: do not use the index.
        texts_only: load only the text side of the model, as no question will be an image.

    Raises:
        SwanError: the file contains nothing to search, its checkpoint is missing or is not the one that made
            it, or its index was made for another file or cannot be read.
    """
    path = Path(path)
    embeddings, target = open_embeddings(path), choose_device(device)
    if not (len(embeddings.image) or len(embeddings.caption)):
        raise SwanError(f"{path}: contains nothing to search", "embed some: swan embed --images DIR")
    index = None if exact else open_index(path, embeddings, target)
    options = {"checkpoint": checkpoint, "vocab": vocab, "captions_only": texts_only}
    loaded = load_maker(embeddings.made_by, path, "make them again: swan embed", **options)
    return Searcher(embeddings, Encoder(loaded, target), index)
