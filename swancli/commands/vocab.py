"""`swan vocab`: the captions of a data set or a source -> vocab.h5."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from swancli.commands import options
from swancli.commands.options import exclusive, option, prepared_dataset
from swancli.console import Display, print_json, show_fields, show_notes, warn
from swancli.errors import SwanError
from swancli.workspace import Workspace

MANY_ONCE = 50.0  # percent of the words that occur only once, from which on they look like whole sentences

if TYPE_CHECKING:
    from swancli.vocab.known_words import KnownWords
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
    json_: bool = options.JSON,
    root: Path = options.ROOT,
    quiet: bool = options.QUIET,
) -> None:
    """Count the words of the captions and write vocab.h5.

    Examples:
        swan vocab --dataset ucm
        swan vocab --dataset ucm --vectors glove.6B.300d.txt
        swan vocab --dataset ucm --stop-words drop --min-count 5 --splits all
    """
    from swancli.vocab.known_words import known_words, shown_percent
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
    captions = _captions(workspace, dataset, source, format, needed=not import_)
    if import_:
        vocabulary = read_vocabulary(import_)
    else:
        texts = _counted(captions, splits, source or workspace.dataset(dataset))
        name = dataset or source.resolve().stem
        vocabulary = count_words(texts, min_count=min_count, stop_words=stop_words, dataset=name)
    display, found = Display(quiet), None
    if vectors:
        with display.progress() as progress:
            found = read_word_vectors(vectors, vocabulary.words, progress)
    write_vocabulary(path, vocabulary, found)
    if export:
        export_json(export, vocabulary)
    splits_there = dict.fromkeys(split for split, _ in captions)
    known = {
        split: known_words((text for own, text in captions if own == split), vocabulary)
        for split in splits_there
    }
    _show_vocabulary(vocabulary, path, found, known, json_)
    for split, share in known.items():
        if share.warning:
            warn(f"split {split}: {share.warning}")
    if vocabulary.once > MANY_ONCE:
        once = shown_percent(vocabulary.once)
        warn(f"{once} of the words occur only once: are whole sentences taken for words?")
    if dataset:
        display.note(f"next: swan train --dataset {dataset} --text gru (other text towers need no vocab.h5)")


def _captions(
    workspace: Workspace, dataset: str | None, source: Path | None, format: str | None, needed: bool
) -> list[tuple[str, str]]:
    """Split and text of each caption of a source or a data set, in order; "none" is no split.

    A data set whose captions are not needed may be absent.
    """
    from swancli.prepare.sources import read_source
    from swancli.store.dataset import Dataset

    if source:
        entries = read_source(source, format).entries
        return [(entry.split or "none", text) for entry in entries for text in entry.captions]
    if not (needed or (dataset and workspace.dataset(dataset).exists())):
        return []
    with Dataset(workspace.dataset(dataset)) as stored:
        splits = stored.catalogue.split[stored.catalogue.image]
        return [(split or "none", text) for split, text in zip(splits, stored.catalogue.text, strict=True)]


def _counted(captions: Sequence[tuple[str, str]], splits: str, source: Path) -> list[str]:
    """The captions to count: those of the training split, or all."""
    counted = [text for split, text in captions if splits == "all" or split == "train"]
    if not captions:
        raise SwanError(f"{source}: no captions", "a folder of images has none; give a list with captions")
    if not counted:
        raise SwanError(f"{source}: no training captions", "count all captions: --splits all")
    return counted


def _show_vocabulary(
    vocabulary: Vocabulary,
    path: Path,
    vectors: WordVectors | None,
    known: dict[str, KnownWords],
    as_json: bool,
) -> None:
    dimensions = vectors.vectors.shape[1] if vectors else None
    found = int(vectors.has_vector.sum()) if vectors else None
    if as_json:
        counted = {"words": len(vocabulary), "min_count": vocabulary.min_count, "dimensions": dimensions}
        shares = {split: share.record() for split, share in known.items()}
        of = {"dataset": vocabulary.dataset, "stop_words": vocabulary.stop_words, "with_vector": found}
        print_json({**of, **counted, "known_words": shares, "file": str(path)}, indent=1)
        return
    show_fields(
        f"{vocabulary.dataset or 'imported'} vocabulary",
        words=len(vocabulary),
        least_count=vocabulary.min_count or "unknown",
        stop_words=vocabulary.stop_words,
        dimensions=dimensions or "",
        file=path,
    )
    each = ", ".join(f"{split} {share}" for split, share in known.items())
    notes = [f"known words of the captions: {each}"] if each else []
    if vectors:
        notes.append(
            f"{found} of {len(vocabulary)} words have a vector ({100 * found / len(vocabulary):.1f} %), "
            f"{vectors.retried} of them found without - . ' or what follows a /"
        )
    show_notes(*notes)
