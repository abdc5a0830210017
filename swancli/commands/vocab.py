"""`swan vocab`: the captions of a data set or a source -> vocab.h5."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from swancli.commands import options
from swancli.commands.options import exclusive, option, prepared_dataset
from swancli.console import Display, show_fields, show_notes
from swancli.errors import SwanError
from swancli.workspace import Workspace

if TYPE_CHECKING:
    from swancli.vocab.vocabulary import Vocabulary
    from swancli.vocab.word_vectors import WordVectors

StopWords = Literal["keep", "drop"]
CountedSplits = Literal["train", "all"]


def vocab(
    dataset: str | None = options.DATASET,
    source: Path | None = option(
        None, "PATH", "Count the words in the captions of a source; its images are not needed."
    ),
    format: options.SourceFormat | None = options.FORMAT,
    min_count: int = option(1, "N", "Keep words that occur at least N times (paper: 5).", min=1),
    stop_words: StopWords = option("keep", "keep|drop", "What to do with English stop words (paper: drop)."),
    splits: CountedSplits = option("train", "train|all", "Captions to count (paper: train and test)."),
    vectors: Path | None = option(None, "FILE", "Add word vectors from a text file in GloVe's format."),
    import_: Path | None = option(None, "--import FILE", "Import a JSON vocabulary of the published code."),
    export: Path | None = option(
        None, "FILE", "Also write a JSON vocabulary for the published code.", dir_okay=False
    ),
    output: Path | None = option(
        None, "FILE", "Output file. Default: the data set's vocab.h5.", dir_okay=False
    ),
    root: Path = options.ROOT,
    quiet: bool = options.QUIET,
) -> None:
    """Count the words of the captions and write vocab.h5.

    Examples:
        swan vocab --dataset ucm
        swan vocab --dataset ucm --vectors glove.6B.300d.txt
        swan vocab --dataset ucm --stop-words drop --min-count 5 --splits all
    """
    from swancli.vocab.vocabulary import count_words, export_json, read_vocabulary, write_vocabulary
    from swancli.vocab.word_vectors import read_word_vectors

    exclusive(source=source, **{"import": import_})
    workspace = Workspace(root)
    if source and not (dataset or output):
        raise SwanError(
            "--source alone does not say where the vocabulary goes", "add --dataset NAME or --output FILE"
        )
    if not (source or import_):
        dataset = prepared_dataset(workspace, dataset)
    elif not output:
        dataset = dataset or workspace.newest_dataset()
    path = output or workspace.vocab(dataset)
    if import_:
        vocabulary = read_vocabulary(import_)
    else:
        texts = _captions(workspace, dataset, source, format, splits)
        name = dataset or source.resolve().stem
        vocabulary = count_words(texts, min_count=min_count, stop_words=stop_words, dataset=name)
    display, found = Display(quiet), None
    if vectors:
        with display.progress() as progress:
            found = read_word_vectors(vectors, vocabulary.words, progress)
    write_vocabulary(path, vocabulary, found)
    if export:
        export_json(export, vocabulary)
    _show_vocabulary(vocabulary, path, found)
    if dataset:
        display.note(f"next: swan train --dataset {dataset} --text gru (other text towers need no vocab.h5)")


def _captions(
    workspace: Workspace, dataset: str | None, source: Path | None, format: str | None, splits: str
) -> Iterable[str]:
    """The captions to count: of a source, or of a data set's dataset.h5."""
    from swancli.prepare.sources import read_source
    from swancli.store.dataset import Dataset

    if source:
        entries = read_source(source, format).entries
        counted = [entry for entry in entries if splits == "all" or entry.split == "train"]
        if not counted:
            raise SwanError(f"{source}: names no training images", "count all captions: --splits all")
        return [text for entry in counted for text in entry.captions]
    with Dataset(workspace.dataset(dataset)) as stored:
        rows = stored.catalogue.image_rows(None) if splits == "all" else stored.rows_of("train")
        return stored.catalogue.select(rows)[0].text


def _show_vocabulary(vocabulary: Vocabulary, path: Path, vectors: WordVectors | None) -> None:
    show_fields(
        f"{vocabulary.dataset or 'imported'} vocabulary",
        words=len(vocabulary),
        least_count=vocabulary.min_count or "unknown",
        stop_words=vocabulary.stop_words,
        dimensions=vectors.vectors.shape[1] if vectors else "",
        file=path,
    )
    if vectors:
        found, words = int(vectors.has_vector.sum()), len(vocabulary)
        show_notes(
            f"{found} of {words} words have a vector ({100 * found / words:.1f} %), "
            f"{vectors.retried} of them found without - . ' or what follows a /"
        )
