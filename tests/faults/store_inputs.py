"""Bad HDF5 files, vocabularies and word vectors: cut, of another version or shape, with NaN."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
from cases import Case, Make, content, refuses
from model_inputs import resnet
from readers import READERS, WORDS, read_all_of_dataset, read_all_of_features, write_checkpoint, write_dataset

from swancli.model.checkpoint import file_sha256
from swancli.model.settings import ModelSettings
from swancli.train.features import Features
from swancli.vocab.vocabulary import UNKNOWN, read_vocabulary
from swancli.vocab.word_vectors import read_word_vectors

TEXT = h5py.string_dtype()


def spoiled(reader: str, change: Callable[[h5py.File], Any]) -> Make:
    """A sound file of a reader, changed by way of h5py."""

    def make(folder: Path) -> Path:
        path = folder / READERS[reader].file
        READERS[reader].write(path)
        with h5py.File(path, "r+") as file:
            change(file)
        return path

    return make


def rewritten(reader: str, change: Callable[[bytes], bytes]) -> Make:
    """A sound file of a reader with other bytes."""

    def make(folder: Path) -> Path:
        path = folder / READERS[reader].file
        READERS[reader].write(path)
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


def replaced(name: str, values: Any, **options: Any) -> Callable[[h5py.File], None]:
    """Puts an array in the place of another."""

    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file.create_dataset(name, data=values, **options)

    return change


def without(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]

    return change


def attribute(name: str, value: Any) -> Callable[[h5py.File], None]:
    """Gives an attribute a value; Ellipsis takes it out."""

    def change(file: h5py.File) -> None:
        if value is ...:
            del file.attrs[name]
        else:
            file.attrs[name] = value

    return change


def written(name: str, place: Any, value: Any) -> Callable[[h5py.File], None]:
    """Changes some values of an array."""

    def change(file: h5py.File) -> None:
        file[name][place] = value

    return change


def in_group(name: str) -> Callable[[h5py.File], None]:
    """Puts an empty group in the place of an array."""

    def change(file: h5py.File) -> None:
        del file[name]
        file.create_group(name)

    return change


def huge(name: str, dtype: Any, shape: tuple[int, ...]) -> Callable[[h5py.File], None]:
    """An array that claims terabytes, of which the file holds nothing."""

    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, shape, dtype, chunks=tuple(min(64, side) for side in shape))

    return change


# Of every kind of HDF5 file: what the one way to open them sees.
def of_any_store(reader: str) -> dict[str, tuple[Make, tuple[str, ...]]]:
    return {
        "no bytes": (rewritten(reader, lambda data: b""), ("HDF5",)),
        "text": (rewritten(reader, lambda data: b"hello"), ("HDF5",)),
        "cut in the middle": (rewritten(reader, lambda data: data[: len(data) // 2]), ("HDF5",)),
        "cut within its header": (rewritten(reader, lambda data: data[:40]), ("HDF5",)),
        "no format": (spoiled(reader, attribute("format", ...)), ("format",)),
        "of another format": (spoiled(reader, attribute("format", "swan-other")), ("swan-other",)),
        "of a later version": (spoiled(reader, attribute("version", 9)), ("version 9", "reads version")),
        "of an earlier version": (spoiled(reader, attribute("version", 0)), ("version 0", "reads version")),
        "not complete": (spoiled(reader, attribute("complete", ...)), ("not complete",)),
    }


ANY_STORE_ONCE = {
    "a format that is an array": lambda reader: (
        spoiled(reader, attribute("format", np.zeros(3))),
        ("format",),
    ),
    "no version": lambda reader: (spoiled(reader, attribute("version", ...)), ("version None",)),
    "a version in words": lambda reader: (spoiled(reader, attribute("version", "one")), ("version one",)),
    "a version that is an array": lambda reader: (
        spoiled(reader, attribute("version", [1, 1])),
        ("version",),
    ),
    "a folder of that name": lambda reader: (
        lambda folder: (folder / READERS[reader].file).mkdir() or folder / READERS[reader].file,
        ("no such file",),
    ),
    "not there": lambda reader: (lambda folder: folder / READERS[reader].file, ("no such file",)),
}


def refused(
    name: str,
    arguments: Callable[[Path], list[object]],
    table: dict[str, tuple[Make, tuple[str, ...]]],
    *more: str,
) -> list[Case]:
    return [Case(name, defect, make, arguments, (*more, *named)) for defect, (make, named) in table.items()]


def changed(reader: str, **table: Any) -> dict[str, tuple[Make, tuple[str, ...]]]:
    """From a defect to a change of the file, and what the message names."""
    return {defect: (spoiled(reader, change), named) for defect, (change, *named) in table.items()}


# ---------------------------------------------------------------------------------------------------------
# dataset.h5


def count_dataset(path: Path) -> list[object]:
    """`swan vocab` of the data set root/small/dataset.h5."""
    return ["vocab", "--root", path.parent.parent, "--dataset", path.parent.name, "--splits", "all"]


def in_root(make: Make) -> Make:
    """Makes the input in the folder of a data set under a root."""

    def below(folder: Path) -> Path:
        (folder / "place" / "small").mkdir(parents=True)
        return make(folder / "place" / "small")

    return below


DATASET = {
    **of_any_store("dataset.h5"),
    **{defect: make("dataset.h5") for defect, make in ANY_STORE_ONCE.items()},
    **changed(
        "dataset.h5",
        **{
            "no name": (attribute("dataset", ...), "dataset"),
            "a name that is a number": (attribute("dataset", 3), "dataset"),
            "no file names": (without("images/filename"), "filename"),
            "file names that are numbers": (replaced("images/filename", np.arange(6)), "images/filename"),
            "file names in a table": (
                replaced("images/filename", np.array([["a"] * 6], dtype=object), dtype=TEXT),
                "images/filename",
            ),
            "file names in a group": (in_group("images/filename"), "images/filename"),
            "no scenes": (without("images/scene"), "scene"),
            "no names of scenes": (without("images/scene_names"), "scene_names"),
            "fewer scenes than images": (
                replaced("images/scene", np.zeros(5, np.int32)),
                "images/scene",
                "5",
            ),
            "a scene without a name": (written("images/scene", 2, 9), "/images/scene[2]", "9"),
            "a scene of -2": (written("images/scene", 2, -2), "/images/scene[2]", "-2"),
            "scenes that are fractions": (replaced("images/scene", np.zeros(6)), "images/scene", "float64"),
            "no splits": (without("images/split"), "split"),
            "a split without a name": (written("images/split", 0, 3), "/images/split[0]", "3"),
            "no captions": (without("captions/text"), "captions/text"),
            "captions that are no UTF-8": (replaced("captions/text", np.array([b"\xff"] * 12)), "decode"),
            "captions that are numbers": (replaced("captions/text", np.arange(12)), "captions/text"),
            "fewer captions than their images": (
                replaced("captions/text", np.array(["a"] * 11, dtype=object), dtype=TEXT),
                "captions/image",
            ),
            "a caption of an image that is not there": (
                written("captions/image", 4, 6),
                "/captions/image[4]",
                "6",
            ),
            "a caption of image -2": (written("captions/image", 4, -2), "/captions/image[4]", "-2"),
            "images of captions that are fractions": (
                replaced("captions/image", np.full(12, 0.5)),
                "captions/image",
                "float64",
            ),
            "no pixels": (without("images/pixels"), "encoded"),
            "fewer pictures than images": (
                replaced("images/pixels", np.zeros((5, 8, 8, 3), np.uint8)),
                "images/pixels",
                "5",
            ),
            "pictures without colours": (
                replaced("images/pixels", np.zeros((6, 8, 8), np.uint8)),
                "images/pixels",
            ),
            "pictures of four colours": (
                replaced("images/pixels", np.zeros((6, 8, 8, 4), np.uint8)),
                "images/pixels",
                "4",
            ),
            "pictures that are fractions": (
                replaced("images/pixels", np.zeros((6, 8, 8, 3), np.float32)),
                "images/pixels",
                "float32",
            ),
            "pictures of 16 bits": (
                replaced("images/pixels", np.zeros((6, 8, 8, 3), np.uint16)),
                "images/pixels",
                "uint16",
            ),
            "pictures without a pixel": (
                replaced("images/pixels", np.zeros((6, 0, 8, 3), np.uint8)),
                "images/pixels",
                "0",
            ),
        },
    ),
}
DATASET_CASES = [
    Case("dataset.h5", defect, in_root(make), count_dataset, ("dataset.h5", *named))
    for defect, (make, named) in DATASET.items()
]


def encoded(data: bytes) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file["images/encoded"][2] = np.frombuffer(data, np.uint8)

    return change


# The images of a data set are read by its row, when something is made of them.
DATASET_CASES += [
    Case(
        "images in dataset.h5",
        defect,
        in_root(spoiled(reader, change)),
        check=refuses(read_all_of_dataset, "dataset.h5", *named),
    )
    for defect, reader, change, named in (
        ("no bytes", "dataset.h5, encoded", encoded(b""), ("river_2.png",)),
        ("text", "dataset.h5, encoded", encoded(b"hello"), ("river_2.png", "not an image")),
        (
            "fewer digests than images",
            "dataset.h5",
            replaced("images/digest", np.array(["a"] * 5, dtype=object), dtype=TEXT),
            ("digest",),
        ),
        ("digests that are numbers", "dataset.h5", replaced("images/digest", np.arange(6)), ("digest",)),
    )
]

# ---------------------------------------------------------------------------------------------------------
# embeddings.h5, for eval, and for query


def evaluate_embeddings(path: Path) -> list[object]:
    return ["eval", "--embeddings", path, "--split", "all"]


def search_embeddings(path: Path) -> list[object]:
    return ["query", "a river", "--embeddings", path]


def long_vector(file: h5py.File) -> None:
    file["images/embedding"][3] *= 2


def half_precision(file: h5py.File) -> None:
    replaced("images/embedding", file["images/embedding"][:].astype(np.float16))(file)


def turned(file: h5py.File) -> None:
    replaced("images/embedding", file["images/embedding"][:].T)(file)


def narrow_captions(file: h5py.File) -> None:
    replaced("captions/embedding", file["captions/embedding"][:, :8])(file)


VECTORS = {
    "an image that is NaN": (
        written("images/embedding", (3, 5), np.nan),
        "/images/embedding[3]",
        "NaN",
    ),
    "an image that is infinite": (
        written("images/embedding", (3, 5), np.inf),
        "/images/embedding[3]",
        "NaN",
    ),
    "an image of length 2": (long_vector, "/images/embedding[3]", "length 2"),
    "an image of zeros": (written("images/embedding", 3, 0), "/images/embedding[3]", "length 0"),
}
EMBEDDINGS = {
    **of_any_store("embeddings.h5"),
    **changed(
        "embeddings.h5",
        **VECTORS,
        **{
            "a caption that is NaN": (
                written("captions/embedding", (11, 0), np.nan),
                "/captions/embedding[11]",
                "NaN",
            ),
            "a caption of length 0": (
                written("captions/embedding", 11, 0),
                "/captions/embedding[11]",
                "length 0",
            ),
            "no images": (without("images/embedding"), "images/embedding"),
            "no captions": (without("captions/embedding"), "captions/embedding"),
            "images in a group": (in_group("images/embedding"), "images/embedding"),
            "one image too few": (
                replaced("images/embedding", np.zeros((5, 16), np.float32)),
                "images/embedding",
                "5",
            ),
            "images turned by 90 degrees": (turned, "images/embedding"),
            "images in one row": (replaced("images/embedding", np.zeros(96, np.float32)), "images/embedding"),
            "a single number": (replaced("images/embedding", 1.0), "images/embedding"),
            "images of other dimensions than captions": (narrow_captions, "captions/embedding", "8", "16"),
            "images in half precision": (half_precision, "images/embedding", "float16"),
            "images in whole numbers": (
                replaced("images/embedding", np.ones((6, 16), np.int32)),
                "images/embedding",
                "int32",
            ),
            "images that claim terabytes": (
                huge("images/embedding", np.float32, (2**36, 16)),
                "images/embedding",
            ),
            "no file names": (without("images/filename"), "filename"),
            "file names that claim terabytes": (huge("images/filename", np.dtype("S9"), (2**40,)),),
            "no scene codes": (without("images/scene"), "scene"),
            "a caption of an image that is not there": (
                written("captions/image", 0, 99),
                "/captions/image[0]",
                "99",
            ),
            "a variant that is a number": (attribute("variant", 1.5), "variant"),
        },
    ),
}
EMBEDDINGS_CASES = refused("embeddings.h5", evaluate_embeddings, EMBEDDINGS, "embeddings.h5")


def searchable(change: Callable[[h5py.File], Any]) -> Make:
    """Embeddings with the checkpoint that made them beside, as `query` needs them."""

    def make(folder: Path) -> Path:
        path = spoiled("embeddings.h5", change)(folder)
        write_checkpoint(folder / "best.pt")
        with h5py.File(path, "r+") as file:
            file.attrs["checkpoint_sha256"] = file_sha256(folder / "best.pt")
        return path

    return make


def halved(file: h5py.File) -> None:
    for name in ("images/embedding", "captions/embedding"):
        values = file[name][:, :8]
        replaced(name, values / np.linalg.norm(values, axis=1, keepdims=True))(file)


EMBEDDINGS_CASES += [
    Case("embeddings.h5, searched", defect, searchable(change), search_embeddings, ("embeddings.h5", *named))
    for defect, (change, *named) in {
        **VECTORS,
        "other dimensions than the checkpoint": (halved, "8", "16", "best.pt"),
    }.items()
]
EMBEDDINGS_CASES += [
    Case(
        "embeddings.h5, searched",
        "a checkpoint that has moved away",
        spoiled("embeddings.h5", attribute("checkpoint", "moved.pt")),
        search_embeddings,
        ("moved.pt", "no such file"),
    ),
    Case(
        "embeddings.h5, searched for captions",
        "a caption that is NaN",
        searchable(written("captions/embedding", (7, 0), np.nan)),
        lambda path: [*search_embeddings(path), "--captions"],
        ("embeddings.h5", "/captions/embedding[7]"),
    ),
    Case(
        "embeddings.h5, for a threshold",
        "a validation caption that is NaN",
        searchable(written("captions/embedding", (2, 0), np.nan)),
        lambda path: [*search_embeddings(path), "--threshold", "auto"],
        ("embeddings.h5", "/captions/embedding[2]"),
    ),
    *(
        Case(
            "embeddings.h5, for a threshold",
            defect,
            searchable(attribute("match", stored)),
            lambda path: [*search_embeddings(path), "--threshold", "auto"],
            ("vectors of", "best.pt", "match threshold", "swan embed"),
        )
        for defect, stored in (
            ("a stored threshold that is text", "half"),
            ("a stored threshold in a list", "[0.5]"),
            ("a stored threshold that is NaN", '{"offset": NaN}'),
            ("a stored threshold in part", '{"offset": 0.5}'),
            ("a stored threshold nested too deeply", "[" * 50_000),
        )
    ),
    Case(
        "embeddings.h5, indexed",
        "an image that is NaN",
        spoiled("embeddings.h5", written("images/embedding", (3, 5), np.nan)),
        lambda path: ["embed", "--index", "flat", "--embeddings", path],
        ("embeddings.h5", "/images/embedding[3]"),
    ),
    Case(
        "embeddings.h5, indexed",
        "no digest",
        spoiled("embeddings.h5", attribute("digest", ...)),
        lambda path: ["embed", "--index", "flat", "--embeddings", path],
        ("embeddings.h5", "digest"),
    ),
]

# ---------------------------------------------------------------------------------------------------------
# the index beside embeddings.h5


def ask_index(path: Path) -> list[object]:
    return search_embeddings(path.with_suffix(".h5"))


INDEX_CASES = refused(
    "index",
    ask_index,
    {
        **of_any_store("index"),
        **changed(
            "index",
            **{
                "of other embeddings": (attribute("digest", "0" * 32), "other embeddings"),
                "no digest": (attribute("digest", ...), "digest"),
                "a digest that is a number": (attribute("digest", 5), "digest"),
                "an unknown kind": (attribute("kind", "tree"), "tree"),
                "a recall in words": (attribute("recall", "good"), "good"),
                "no rows": (without("rows"), "rows"),
                "rows in a group": (in_group("rows"), "rows"),
                "rows of 32 bits": (replaced("rows", np.arange(6, dtype=np.int32)), "rows", "int32"),
                "fewer rows than images": (replaced("rows", np.arange(5)), "/rows"),
                "rows in a table": (replaced("rows", np.zeros((6, 2), np.int64)), "rows"),
                "no starts": (without("starts"), "starts"),
                "fewer starts than vectors": (replaced("starts", np.arange(4)), "/starts"),
                "no index of faiss": (without("faiss"), "faiss"),
                "an empty index of faiss": (replaced("faiss", np.zeros(0, np.uint8)), "faiss"),
                "an index of faiss that is zeros": (written("faiss", slice(None), 0), "faiss"),
                "an index of faiss in words": (replaced("faiss", np.zeros(9, np.int32)), "faiss", "int32"),
            },
        ),
    },
    "embeddings.index",
)


def searchable_index(change: Callable[[h5py.File], Any]) -> Make:
    def make(folder: Path) -> Path:
        path = spoiled("index", change)(folder)
        write_checkpoint(folder / "best.pt")
        with h5py.File(path.with_suffix(".h5"), "r+") as file:
            file.attrs["checkpoint_sha256"] = file_sha256(folder / "best.pt")
        return path

    return make


INDEX_CASES += [
    Case("index, asked", defect, searchable_index(change), ask_index, ("index", *named))
    for defect, change, named in (
        ("rows that are not there", written("rows", slice(None), 99), ("not there",)),
        ("rows below 0", written("rows", slice(None), -5), ("not there",)),
        ("starts beyond the rows", written("starts", slice(None), 99), ("not there",)),
    )
]

# ---------------------------------------------------------------------------------------------------------
# the tiles of a scene


def ask_tiles(path: Path) -> list[object]:
    content("scene.png", b"a scene")(path.parent)
    return ["query", "a river", "--scene-image", path.parent / "scene.png", "--embeddings", path]


def known_scene(folder: Path, change: Callable[[h5py.File], Any]) -> Path:
    """Tiles that belong to the scene and the checkpoint beside them."""
    path = spoiled("tiles", change)(folder)
    scene = content("scene.png", b"a scene")(folder)
    write_checkpoint(folder / "best.pt")
    with h5py.File(path, "r+") as file:
        status = scene.stat()
        file.attrs.update(
            scene_size=status.st_size,
            scene_changed=status.st_mtime_ns,
            checkpoint_sha256=file_sha256(folder / "best.pt"),
        )
    return path


def ask_known_tiles(path: Path) -> list[object]:
    return ["query", "a river", "--scene-image", path.parent / "scene.png", "--embeddings", path]


TILES_CASES = refused(
    "tiles",
    ask_tiles,
    {
        **of_any_store("tiles"),
        **changed(
            "tiles",
            **{
                "of another scene": (attribute("scene_name", "other.png"), "another scene"),
                "no boxes": (without("tiles/box"), "tiles/box"),
                "boxes of three numbers": (replaced("tiles/box", np.zeros((2, 3), np.int32)), "tiles/box"),
                "boxes in fractions": (replaced("tiles/box", np.zeros((2, 4))), "tiles/box", "float64"),
                "a box outside of the scene": (written("tiles/box", (1, 2), 31), "/tiles/box[1]", "30 x 20"),
                "a box of no width": (written("tiles/box", 1, [5, 0, 5, 20]), "/tiles/box[1]"),
                "a box that is turned round": (written("tiles/box", 1, [30, 0, 10, 20]), "/tiles/box[1]"),
                "a box left of the scene": (written("tiles/box", (0, 0), -1), "/tiles/box[0]"),
                "no embeddings": (without("tiles/embedding"), "tiles/embedding"),
                "fewer embeddings than boxes": (
                    replaced("tiles/embedding", np.zeros((1, 16), np.float32)),
                    "tiles/embedding",
                ),
                "embeddings in one row": (
                    replaced("tiles/embedding", np.zeros(2, np.float32)),
                    "tiles/embedding",
                ),
                "no preview": (without("scene/preview"), "scene/preview"),
                "a preview without colours": (
                    replaced("scene/preview", np.zeros((20, 30), np.uint8)),
                    "scene/preview",
                ),
                "no height": (attribute("height", ...), "height"),
                "a height in words": (attribute("height", "tall"), "tall"),
                "a scene far larger than its tiles": (attribute("width", 10**12), "1000000000000"),
                "a transform of five numbers": (attribute("transform", [1.0] * 5), "transform"),
                "a transform that is NaN": (attribute("transform", [np.nan] * 6), "transform"),
                "a coordinate system that is a number": (attribute("crs", 32632), "crs"),
                "no checkpoint": (attribute("checkpoint", ...), "checkpoint"),
                "sizes in words": (attribute("tile_sizes", "large"), "tiles-scene.png.h5"),
            },
        ),
        "no tile": (
            spoiled(
                "tiles",
                lambda file: (
                    replaced("tiles/box", np.zeros((0, 4), np.int32))(file),
                    replaced("tiles/embedding", np.zeros((0, 16), np.float32))(file),
                ),
            ),
            ("no tile",),
        ),
    },
    "tiles-scene.png.h5",
)
TILES_CASES += [
    Case(
        "tiles, asked",
        defect,
        lambda folder, change=change: known_scene(folder, change),
        ask_known_tiles,
        named,
    )
    for defect, change, named in (
        (
            "a tile that is NaN",
            written("tiles/embedding", (1, 0), np.nan),
            ("/tiles/embedding[1]", "tiles-scene.png.h5"),
        ),
        ("a tile of zeros", written("tiles/embedding", 0, 0), ("/tiles/embedding[0]", "length 0")),
        (
            "tiles of other dimensions than the checkpoint",
            replaced("tiles/embedding", np.eye(2, 8, dtype=np.float32)),
            ("8", "16"),
        ),
        (
            "a coordinate system that nobody knows",
            attribute("crs", "LOCAL NONSENSE"),
            ("tiles-scene.png.h5", "WKT"),
        ),
    )
]

# ---------------------------------------------------------------------------------------------------------
# features.h5


def train_on_features(path: Path) -> list[object]:
    write_dataset(path.with_name("dataset.h5"))
    root = path.parent.parent
    return ["train", "--root", root, "--dataset", "small", "--vocab", path.parent / "vocab.h5", "--features"]


FEATURES_CASES = [
    Case("features.h5", defect, in_root(make), train_on_features, ("features.h5", *named))
    for defect, (make, named) in {
        **of_any_store("features.h5"),
        **changed(
            "features.h5",
            **{
                "no backbone": (attribute("backbone", ...), "backbone"),
                "an unknown backbone": (attribute("backbone", "vgg"), "vgg"),
                "a backbone that is a number": (attribute("backbone", 18), "backbone"),
                "a size in words": (attribute("image_size", "large"), "large"),
                "views without images": (without("views/image"), "views/image"),
                "images that are fractions": (replaced("views/image", np.zeros(4)), "views/image"),
                "fewer images than views": (replaced("views/image", np.zeros(3, np.int64)), "views/"),
                "varied in whole numbers": (replaced("views/varied", np.arange(4)), "views/varied"),
                "no shallow maps": (without("views/shallow"), "views/shallow"),
                "shallow maps in whole numbers": (
                    replaced("views/shallow", np.zeros((4, 8, 8, 64), np.uint8)),
                    "views/shallow",
                    "uint8",
                ),
                "shallow maps of three views": (
                    replaced("views/shallow", np.zeros((3, 8, 8, 64), np.float16)),
                    "views/shallow",
                    "3",
                ),
                "maps in words": (replaced("views/deep3", np.array([["a"]], dtype="S1")), "views/deep3"),
                "maps in a group": (in_group("views/deep1"), "views/deep1"),
                "no digest of the weights": (attribute("backbone_digest", ...), "backbone_digest"),
                "no text tower": (attribute("text", ...), "text"),
                "no digest of the text tower": (attribute("text_digest", ...), "text_digest"),
            },
        ),
    }.items()
]
CAPTIONS = changed(
    "features.h5, captions",
    **{
        "no texts": (without("captions/text"), "captions/text"),
        "texts in fractions": (replaced("captions/text", np.zeros(12)), "captions/text", "float64"),
        "a text that is not there": (written("captions/text", 3, 7), "captions and their states"),
        "a text of -2": (written("captions/text", 3, -2), "captions and their states"),
        "no starts": (without("captions/start"), "captions/start"),
        "no start at all": (replaced("captions/start", np.zeros(0, np.int64)), "features.h5"),
        "starts in a table": (replaced("captions/start", np.zeros((2, 2), np.int64)), "captions/start"),
        "starts that do not begin at 0": (written("captions/start", 0, 1), "captions and their states"),
        "a text without states": (written("captions/start", 2, 3), "captions and their states"),
        "starts that fall": (written("captions/start", 2, 1), "captions and their states"),
        "starts beyond the states": (written("captions/start", 7, 21), "captions/states", "20"),
        "no states": (without("captions/states"), "captions/states"),
        "states in a group": (in_group("captions/states"), "captions/states"),
        "states in whole numbers": (
            replaced("captions/states", np.zeros((20, 8), np.int8)),
            "captions/states",
            "int8",
        ),
        "states in one row": (replaced("captions/states", np.zeros(20, np.float16)), "captions/states"),
    },
)
FEATURES_CASES += [
    Case("captions in features.h5", defect, in_root(make), train_on_features, ("features.h5", *named))
    for defect, (make, named) in CAPTIONS.items()
]


def check_maps(path: Path) -> None:
    """What a run asks of its features; the run is made up."""
    model = SimpleNamespace(settings=ModelSettings(4, image_size=32, frozen=True), backbone=resnet())
    with h5py.File(path, "r+") as file:
        file.attrs["backbone_digest"] = model.backbone.digest()
    with Features(path) as features:
        features.check(SimpleNamespace(name="small", digest="0"), model, "none")


FEATURES_CASES += [
    Case(
        "maps in features.h5",
        defect,
        spoiled("features.h5", replaced(f"views/{depth}", np.zeros((4, *shape), np.float16))),
        check=refuses(check_maps, "features.h5", f"/views/{depth}"),
    )
    for defect, depth, shape in (
        ("of another network", "deep2", (2, 2, 9)),
        ("of another size", "shallow", (16, 16, 64)),
        ("turned to channels first", "deep3", (512, 1, 1)),
    )
]
# The values are read when a batch is made of them.
FEATURES_CASES += [
    Case(
        "values in features.h5",
        defect,
        spoiled("features.h5, captions", change),
        check=refuses(read_all_of_features, "features.h5", *named),
    )
    for defect, change, *named in (
        ("a shallow map that is NaN", written("views/shallow", (3, 0, 0, 0), np.nan), "/views/shallow[3]"),
        ("a deep map that is infinite", written("views/deep2", (0, 0, 0, 0), np.inf), "/views/deep2[0]"),
        ("a state that is NaN", written("captions/states", (7, 0), np.nan), "/captions/states", "[2]"),
    )
]

# ---------------------------------------------------------------------------------------------------------
# vocab.h5


def train_with_vocab(path: Path) -> list[object]:
    return ["vocab", "--import", path, "--output", path.parent / "never" / "vocab.h5"]


VOCAB_CASES = refused(
    "vocab.h5",
    train_with_vocab,
    {
        **of_any_store("vocab.h5"),
        **changed(
            "vocab.h5",
            **{
                "no words": (without("words"), "words"),
                "words that are numbers": (replaced("words", np.arange(4)), "words"),
                "words in a group": (in_group("words"), "words"),
                "a word twice": (
                    replaced("words", np.array(["a", "a", "b", UNKNOWN], dtype=object), dtype=TEXT),
                    "twice",
                ),
                "no unknown word": (
                    replaced("words", np.array(list("abcd"), dtype=object), dtype=TEXT),
                    UNKNOWN,
                ),
                "no word at all": (replaced("words", np.zeros(0, object), dtype=TEXT), UNKNOWN),
                "words that are no UTF-8": (replaced("words", np.array([b"\xff"] * 4)), "decode"),
                "words that claim terabytes": (huge("words", np.dtype("S9"), (2**40,)), "vocab.h5"),
                "no counts": (without("counts"), "counts"),
                "fewer counts than words": (replaced("counts", np.arange(3)), "3 counts"),
                "a negative count": (replaced("counts", np.array([1, -1, 1, 0])), "count"),
                "counts that are fractions": (replaced("counts", np.full(4, 0.5)), "counts", "float64"),
                "a single count": (replaced("counts", 4), "counts"),
                "no tokenizer": (attribute("tokenizer", ...), "tokenizer"),
                "another tokenizer": (attribute("tokenizer", "bpe"), "bpe"),
                "a tokenizer that is an array": (attribute("tokenizer", np.zeros(2)), "tokenizer"),
                "a least count in words": (attribute("min_count", "few"), "few"),
                "no stop-word rule": (attribute("stop_words", ...), "stop_words"),
                "no data set": (attribute("dataset", ...), "dataset"),
            },
        ),
    },
    "vocab.h5",
)


# ---------------------------------------------------------------------------------------------------------
# vocabularies in JSON, and GloVe


LAYOUT = {"word2idx": {"a": 1, UNKNOWN: 2}, "idx2word": {"1": "a", "2": UNKNOWN}, "idx": 3}


def layout(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in (LAYOUT | changes).items() if value is not ...}


JSON_CASES = [
    Case("vocab.json", defect, content("vocab.json", value), train_with_vocab, ("vocab.json", *named))
    for defect, value, named in (
        ("no bytes", b"", ("line 1",)),
        ("cut in the middle", json.dumps(LAYOUT)[:30], ("line 1",)),
        ("NUL bytes", b"{\0}", ("NUL",)),
        ("UTF-16", json.dumps(LAYOUT).encode("utf-16"), ("UTF-8",)),
        ("Latin-1 letters", b'{\n"\xe9": 1}', ("line 2",)),
        ("nested too deeply", "[" * 200_000, ("nested",)),
        ("a number of too many digits", '{"idx": ' + "9" * 5000 + "}", ("digits",)),
        ("a list of words", ["a", "b"], ("object",)),
        ("null", None, ("object",)),
        ("without the numbers of the words", layout(word2idx=...), ("word2idx",)),
        ("without the words of the numbers", layout(idx2word=...), ("idx2word",)),
        ("without the next number", layout(idx=...), ("idx",)),
        ("numbers of words in a list", layout(word2idx=[1, 2]), ("word2idx",)),
        ("words of numbers in a list", layout(idx2word=["a"]), ("idx2word",)),
        ("a next number in words", layout(idx="3"), ("idx",)),
        ("a next number that is too high", layout(idx=9), ("idx", "9")),
        ("a word's number in words", layout(word2idx={"a": "1", UNKNOWN: 2}), ("'a'",)),
        ("a word's number of null", layout(word2idx={"a": None, UNKNOWN: 2}), ("'a'",)),
        ("a word's number of true", layout(word2idx={"a": True, UNKNOWN: 2}), ("'a'",)),
        ("a number twice", layout(word2idx={"a": 2, UNKNOWN: 2}), ("word2idx",)),
        ("numbers from 0 on", layout(word2idx={"a": 0, UNKNOWN: 1}), ("word2idx",)),
        ("no unknown word", layout(word2idx={"a": 1}, idx2word={"1": "a"}, idx=2), (UNKNOWN,)),
        ("two halves that do not agree", layout(idx2word={"1": "b", "2": UNKNOWN}), ("agree",)),
        (
            "a NUL in a word",
            layout(word2idx={"a\0": 1, UNKNOWN: 2}, idx2word={"1": "a\0", "2": UNKNOWN}),
            ("word",),
        ),
        (
            "half a surrogate in a word",
            layout(word2idx={"\ud800": 1, UNKNOWN: 2}, idx2word={"1": "\ud800", "2": UNKNOWN}),
            ("word",),
        ),
        ("an empty object", {}, ("word2idx",)),
    )
]


def read_words(*words: str) -> Callable[[Path], None]:
    def check(path: Path) -> None:
        assert read_vocabulary(path).words == words

    return check


JSON_CASES += [
    Case(
        "vocab.json",
        "a byte-order mark",
        content("vocab.json", codecs.BOM_UTF8 + json.dumps(LAYOUT).encode()),
        check=read_words("a", UNKNOWN),
    ),
    Case(
        "vocab.json",
        "emoji and right-to-left words",
        content(
            "vocab.json",
            layout(
                word2idx={"\U0001f30d": 1, "\u05e0\u05d4\u05e8": 2, UNKNOWN: 3},
                idx2word={"1": "\U0001f30d", "2": "\u05e0\u05d4\u05e8", "3": UNKNOWN},
                idx=4,
            ),
        ),
        check=read_words("\U0001f30d", "\u05e0\u05d4\u05e8", UNKNOWN),
    ),
]


def add_vectors(path: Path) -> list[object]:
    READERS["vocab.json"].write(path.parent / "words.json")
    return [
        *("vocab", "--import", path.parent / "words.json", "--vectors", path),
        *("--output", path.parent / "never" / "vocab.h5"),
    ]


def glove(*rows: tuple[str, list[str]]) -> str:
    return "".join(f"{' '.join([word, *numbers])}\n" for word, numbers in rows)


NUMBERS = ["0.5"] * 300
SOUND_ROW = ("other", NUMBERS)
GLOVE_CASES = [
    Case("glove", defect, content("glove.txt", text), add_vectors, ("glove.txt", *named))
    for defect, text, named in (
        ("no bytes", b"", ("none of the",)),
        ("blank lines", "\n\n\n", ("line 1",)),
        ("text", "a web page\n", ("line 1",)),
        ("NUL bytes", b"\0" * 50, ("line 1",)),
        ("zipped", b"PK\x03\x04" + bytes(range(200)), ("line 1",)),
        ("UTF-16", glove(("river", NUMBERS)).encode("utf-16"), ("glove.txt",)),
        ("a word alone", glove(("river", [])), ("line 1",)),
        ("a head of no dimensions", "2 0\n" + glove(("river", NUMBERS)), ("line 1",)),
        ("a head of other dimensions", "2 100\n" + glove(("river", NUMBERS)), ("line 2", "300", "100")),
        ("a head of too many digits", f"2 {'9' * 5000}\n" + glove(("river", NUMBERS)), ("line 2",)),
        (
            "a later row that is too short",
            glove(SOUND_ROW, ("river", NUMBERS[:299])),
            ("line 2", "299", "300"),
        ),
        ("a later row of a word alone", glove(SOUND_ROW, ("river", [])), ("line 2",)),
        (
            "a later row that is too long",
            glove(SOUND_ROW, ("river", ["0.5", *NUMBERS])),
            ("line 2", "301", "300"),
        ),
        ("a number in words", glove(SOUND_ROW, ("river", ["half", *NUMBERS[1:]])), ("line 2",)),
        ("a number with a comma", glove(SOUND_ROW, ("river", ["0,5", *NUMBERS[1:]])), ("line 2",)),
        ("NaN", glove(SOUND_ROW, ("river", ["nan", *NUMBERS[1:]])), ("line 2",)),
        ("an infinite number", glove(SOUND_ROW, ("river", ["inf", *NUMBERS[1:]])), ("line 2",)),
        (
            "a number beyond single precision",
            glove(SOUND_ROW, ("river", ["1e300", *NUMBERS[1:]])),
            ("line 2",),
        ),
        ("cut within a needed row", glove(SOUND_ROW, ("river", NUMBERS))[:-600], ("line 2",)),
        ("tabs in place of spaces", glove(("river", NUMBERS)).replace(" ", "\t"), ("line 1",)),
        ("no word that is needed", glove(SOUND_ROW), ("none of the",)),
    )
]


def read_glove(has: list[bool]) -> Callable[[Path], None]:
    def check(path: Path) -> None:
        found = read_word_vectors(path, WORDS.words, lambda *_: None)
        assert found.has_vector.tolist() == has

    return check


GLOVE_CASES += [
    Case("glove", defect, content("glove.txt", text), check=read_glove(has))
    for defect, text, has in (
        (
            "ragged rows of words that are not needed",
            glove(("river", NUMBERS), ("x", ["1"]), ("y", [])),
            [True, False, False, False],
        ),
        (
            "bytes that are no UTF-8 in a word that is not needed",
            glove(("river", NUMBERS)).encode() + b"\xff\xfe " + " ".join(NUMBERS).encode(),
            [True, False, False, False],
        ),
        (
            "the same word twice",
            glove(("road", NUMBERS), ("road", ["nan"] * 300)),
            [False, True, False, False],
        ),
        ("spaces within a word", glove((". . .", NUMBERS), ("roof", NUMBERS)), [False, False, True, False]),
        ("100 dimensions", glove(("river", NUMBERS[:100])), [True, False, False, False]),
        ("301 dimensions", glove(("river", [*NUMBERS, "0.5"])), [True, False, False, False]),
        ("Windows line ends", glove(("river", NUMBERS)).replace("\n", "\r\n"), [True, False, False, False]),
        ("the head of word2vec", "2 300\n" + glove(("river", NUMBERS)), [True, False, False, False]),
    )
]

CASES = [
    *DATASET_CASES,
    *EMBEDDINGS_CASES,
    *INDEX_CASES,
    *TILES_CASES,
    *FEATURES_CASES,
    *VOCAB_CASES,
    *JSON_CASES,
    *GLOVE_CASES,
]
