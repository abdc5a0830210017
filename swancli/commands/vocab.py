"""`swan vocab`: the captions of a data set or a source -> vocab.h5."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer

from swancli.commands.options import DEFAULT_ROOT, DatasetName, Format, Quiet, Root, exclusive
from swancli.console import Display, show_vocabulary
from swancli.errors import SwanError
from swancli.workspace import Workspace

StopWords = Literal["keep", "drop"]
CountedSplits = Literal["train", "all"]


def vocab(
    dataset: DatasetName = None,
    source: Annotated[
        Path | None, typer.Option(help="Count the captions of a source (as for prepare); needs no images.")
    ] = None,
    format: Format = None,
    output: Annotated[
        Path | None, typer.Option(dir_okay=False, help="File to write. Default: vocab.h5 of the data set.")
    ] = None,
    min_count: Annotated[
        int, typer.Option(min=1, help="Least number of times a word is seen (paper: 5).")
    ] = 1,
    stop_words: Annotated[StopWords, typer.Option(help="English stop words (paper: drop).")] = "keep",
    splits: Annotated[
        CountedSplits, typer.Option(help="Captions to count (paper: train and test).")
    ] = "train",
    import_: Annotated[
        Path | None, typer.Option("--import", help="Take the words of a published JSON vocabulary.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Also write the published JSON layout.")
    ] = None,
    vectors: Annotated[
        Path | None, typer.Option(help="Add the words' vectors from a GloVe text file of 300 dimensions.")
    ] = None,
    root: Root = DEFAULT_ROOT,
    quiet: Quiet = False,
) -> None:
    """Count the words of the captions into vocab.h5."""
    from swancli.vocab.vocabulary import count_words, export_json, read_vocabulary, write_vocabulary
    from swancli.vocab.word_vectors import read_word_vectors

    exclusive(source=source, **{"import": import_})
    workspace = Workspace(root)
    if source and not (dataset or output):
        raise SwanError(
            "--source alone does not say where the words go", "add --dataset NAME or --output FILE"
        )
    if not (output and (source or import_)):
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
    show_vocabulary(vocabulary, path, found)
    if dataset:
        display.note(f"next: swan train --dataset {dataset}")


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
