"""The readers of everything that comes from outside: for each a sound input, and a call that reads it whole.

What spoils an input is in `spoiling`; that nothing but SwanError comes of it, in `test_fuzz` and `fuzz`.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from spoiling import Choose, spoil_hdf5, spoil_json, spoil_safetensors, spoil_torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from swancli.embed.embed import embed_texts
from swancli.embed.shards import Shard, ShardFolder
from swancli.evaluate.report import evaluate_file
from swancli.images import decode_image, image_size, read_bytes
from swancli.model import towers
from swancli.model.bert import Bert, _sizes, read_bert_folder
from swancli.model.checkpoint import load_checkpoint, save_checkpoint
from swancli.model.encoder import Encoder
from swancli.model.settings import MINILM, BertShape, ModelSettings
from swancli.model.start import text_transformer
from swancli.model.swan import Swan
from swancli.model.weights import read_weights
from swancli.prepare.sources import read_source
from swancli.query.index import build_index, open_index
from swancli.query.ranking import exact_ranking
from swancli.scene_image.annotations import read_annotations
from swancli.scene_image.heat import heat_map
from swancli.scene_image.raster import Raster
from swancli.scene_image.tiles import open_tiles, tile_scores
from swancli.store.catalogue import Catalogue
from swancli.store.dataset import Dataset, create_dataset
from swancli.store.embeddings import Embeddings, open_embeddings, write_embeddings
from swancli.store.hdf5 import CREATED_BY, FEATURES, TILES, create_store
from swancli.store.made_by import MadeBy
from swancli.store.parts import Part, read_part, read_part_vectors, write_part
from swancli.train.config import resumed_config
from swancli.train.features import Features
from swancli.vocab.vocabulary import (
    UNKNOWN,
    Vocabulary,
    export_json,
    read_vectors,
    read_vocabulary,
    write_vocabulary,
)
from swancli.vocab.word_pieces import WordPieces
from swancli.vocab.word_vectors import WordVectors, read_word_vectors
from swancli.workspace import Group, Run

WIDTH = 16  # dimensions of embeddings here
WORDS = Vocabulary(("river", "road", "roof", UNKNOWN), (3, 2, 1, 0), 1, "keep", "small")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Reader:
    """A reader of one kind of input.

    file: name that the input has.
    write: writes a sound one and the files that belong beside it.
    read: reads all of it, as the commands do.
    spoil: changes a sound one from within, where changed bytes alone would change little.
    """

    file: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    spoil: Callable[[Path, Choose], None] | None = None


# ---------------------------------------------------------------------------------------------------------
# sound inputs


def vectors(count: int, seed: int = 0) -> np.ndarray:
    """float32 (count, WIDTH), L2-normalised."""
    made = np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def small_catalogue() -> Catalogue:
    """Six images of two scenes in all three splits, two captions each."""
    return Catalogue.of(
        [f"{scene}_{number}.png" for scene in ("river", "road") for number in range(3)],
        ["river"] * 3 + ["road"] * 3,
        ["train", "val", "test"] * 2,
        [f"a {scene} and {count} roofs" for scene in ("river", "road") for count in range(6)],
        np.repeat(range(6), 2),
    )


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


KARPATHY = {
    "dataset": "small",
    "images": [
        {
            "filename": "1.jpg",
            "filepath": "a",
            "split": "train",
            "scene": "river",
            "sentences": [{"raw": "a river"}, {"raw": "a road"}],
        },
        {"filename": "2.jpg", "split": "test", "sentences": [{"raw": "a roof"}]},
    ],
}
NWPU = {
    "river": [{"filename": "river_1.jpg", "split": "train", "raw": "a river", "raw_1": "a road"}],
    "road": [{"filename": "road_1.jpg", "split": "test", "raw": "a road", "raw_1": "a roof"}],
}
ANNOTATIONS = [{"jpg_name": "scene.png", "caption": "a river", "points": [[[0, 0], [9, 0], [9, 9]]]}]
TABLE = (
    "filename,caption,split,scene\n1.jpg,a river,train,river\n1.jpg,a road,train,river\n2.jpg,a roof,test,\n"
)


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_precomp(path: Path) -> None:
    write_text(path.parent / "train_filename.txt", "1.jpg\n2.jpg\n")
    write_text(path.parent / "train_caps.txt", "a river\na road\na roof\na river\n")


def write_ucm(path: Path) -> None:
    write_text(path.parent / "filenames_train.txt", "1.tif\n2.tif\n")
    write_text(path.parent / "filenames_test.txt", "3.tif\n")
    write_text(path.parent / "descriptions_small.txt", "1 a river\n1 a road\n2 a roof\n3 a river\n")


def write_parquet(path: Path) -> None:
    import pandas

    pandas.read_csv(io.StringIO(TABLE)).to_parquet(path)


def write_glove(path: Path) -> None:
    numbers = " ".join(["0.25"] * 300)
    write_text(path, f"river {numbers}\nroad {numbers}\n")


def write_vocab(path: Path) -> None:
    write_vocabulary(path, WORDS, WordVectors(np.ones((len(WORDS), 300), np.float32), np.ones(4, bool)))


def write_dataset(path: Path, encoded: bool = False) -> None:
    catalogue = small_catalogue()
    with create_dataset(path, "small", None if encoded else (8, 8)) as writer:
        for row in range(len(catalogue.filename)):
            writer.add(png(row) if encoded else np.full((8, 8, 3), 40 * row, np.uint8), f"{row:032x}", row)
        writer.finish(catalogue)


def png(grey: int = 90, side: int = 8) -> bytes:
    """A plain grey PNG file."""
    written = io.BytesIO()
    Image.new("RGB", (side, side), (grey,) * 3).save(written, "PNG")
    return written.getvalue()


def write_small_embeddings(path: Path) -> str:
    return write_embeddings(
        path,
        Embeddings(
            vectors(6),
            vectors(12, 1),
            small_catalogue(),
            "small",
            MadeBy(str(path.with_name("best.pt")), "0" * 64, WIDTH, "repaired"),
        ),
        small_catalogue().filename,
    )


def write_small_part(path: Path) -> None:
    catalogue, _ = small_catalogue().select(np.arange(6))
    catalogue = Catalogue.of(catalogue.filename, catalogue.scene, [None] * 6)
    digests = np.array([str(row) for row in range(6)], object)
    write_part(path, Part(catalogue, digests, [("7.png", "not an image")]), vectors(6), "0" * 32)


def write_features(path: Path) -> None:
    with create_store(path, FEATURES) as file:
        file.attrs.update(
            backbone="resnet18", weights="", image_size=32, augmentation="none", text="gru", views=1, seed=0
        )
        file.attrs.update(dataset="small", dataset_digest="0", backbone_digest="0", text_digest="")
        file["views/image"], file["views/varied"] = (
            np.array([0, 3, 1, 4]),
            np.array([True, True, False, False]),
        )
        maps = {"shallow": (8, 64), "deep1": (2, 128), "deep2": (2, 256), "deep3": (1, 512)}
        for name, (side, channels) in maps.items():
            file[f"views/{name}"] = np.zeros((4, side, side, channels), np.float16)


def write_features_with_states(path: Path) -> None:
    """Two captions of the small data set have the same text; those of its test images have no states."""
    write_features(path)
    with h5py.File(path, "r+") as file:
        file.attrs.update(text="minilm", text_digest="0")
        file["captions/text"] = np.array([0, 1, 2, 3, -1, -1, 4, 5, 6, 6, -1, -1])
        file["captions/start"] = np.array([0, 3, 6, 10, 12, 15, 17, 20])
        file["captions/states"] = np.ones((20, 8), np.float16)


def write_small_tiles(path: Path) -> None:
    with create_store(path, TILES) as file:
        file["tiles/box"] = np.array([[0, 0, 20, 20], [10, 0, 30, 20]], np.int32)
        file["tiles/embedding"] = vectors(2)
        file["scene/preview"] = np.zeros((20, 30, 3), np.uint8)
        file.attrs.update(source="scene.png", scene_name="scene.png", scene_size=1, scene_changed=1)
        file.attrs.update(bands="", stretch="")
        file.attrs.update(height=20, width=30, crs="", transform=(1.0, 0, 0, 0, 1.0, 0), tile_sizes=[20])
        file.attrs.update(checkpoint="best.pt", checkpoint_sha256="0" * 64, variant="repaired", vocab="")
        file.attrs.update(configuration="", activation="", match="")


def write_index(path: Path) -> None:
    write_small_embeddings(path.with_suffix(".h5"))
    build_index(path.with_suffix(".h5"), "flat")


def write_checkpoint(path: Path) -> None:
    """A checkpoint of the text side alone, which is all that a query in words needs."""
    torch.manual_seed(0)
    model = Swan(ModelSettings(words=len(WORDS), image_size=32, embed_dim=WIDTH), captions_only=True)
    save_checkpoint(path, model, WORDS, {"dataset": "small", "run": "first", "epoch": 1})


SHAPE = BertShape(pieces=9, positions=128, width=16, layers=2, heads=2, inner=24, eps=1e-12)
PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "river", "road", "##s", "roof")
BERT_CONFIG = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "vocab_size": SHAPE.pieces,
    "max_position_embeddings": SHAPE.positions,
    "hidden_size": SHAPE.width,
    "num_hidden_layers": SHAPE.layers,
    "num_attention_heads": SHAPE.heads,
    "intermediate_size": SHAPE.inner,
    "layer_norm_eps": SHAPE.eps,
}


def bert_named() -> dict[str, torch.Tensor]:
    """Weights of a small BERT under the names of Hugging Face."""
    generator = torch.Generator().manual_seed(0)
    return {key: torch.randn(size, generator=generator) for key, size in _sizes(SHAPE).items()}


def word_pieces() -> str:
    """The text of a small `tokenizer.json`."""
    number = {piece: place for place, piece in enumerate(PIECES)}
    tokenizer = Tokenizer(models.WordPiece(number, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    framed = [(piece, number[piece]) for piece in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=framed)
    return tokenizer.to_str()


def write_bert(path: Path) -> None:
    """The Hugging Face folder of a small BERT, around a path."""
    write_json(path.with_name("config.json"), BERT_CONFIG)
    write_text(path.with_name("tokenizer.json"), word_pieces())
    save_file(bert_named(), path.with_name("model.safetensors"))


def write_towers(path: Path) -> None:
    """What comes with swan, with small towers."""
    weights = {key: value.half() for key, value in bert_named().items()}
    table = weights.pop(towers.WORD_PIECES)
    word_pieces_of = {"values": table.to(torch.int8), "scales": torch.ones(len(table), 2).half()}
    minilm = {"config": BERT_CONFIG, "tokenizer": word_pieces(), "weights": weights}
    content = {
        "format": towers.FORMAT,
        "version": towers.VERSION,
        "efficientnet_lite0": {"bn1.weight": torch.ones(2).half()},
        "minilm": minilm | {"word_pieces": word_pieces_of},
    }
    torch.save(content, path)


def write_text_transformer(path: Path) -> None:
    """A checkpoint of the text side alone, with a text transformer."""
    torch.manual_seed(0)
    settings = ModelSettings(SHAPE.pieces, image_size=32, embed_dim=WIDTH, bert=SHAPE, freeze_text=1)
    model = Swan(settings, captions_only=True)
    origin = {"dataset": "small", "run": "first", "epoch": 1}
    save_checkpoint(path, model, WordPieces(word_pieces()), origin)


def write_open_clip(path: Path) -> None:
    """The folder of a small open_clip model with its own tokenizer, around a path."""
    from made_clip import make_model, model_cfg, save_folder, save_tokenizer

    torch.manual_seed(0)
    config = model_cfg(text={"vocab_size": 11, "hf_tokenizer_name": "made/tokenizer"})
    save_folder(path.parent, make_model(config), config)
    save_tokenizer(path.parent)


CONFIG = {
    "created_by": "swancli 0.1.0",
    "dataset": "small",
    "vocab": "vocab.h5",
    "weights": "",
    "backbone": "resnet18",
    "image_size": 32,
    "embed_dim": WIDTH,
    "frozen": False,
    "training": {"epochs": 2, "batch_size": 4, "schedule": "step"},
    "variant": "repaired",
    "without": ["vmsf"],
    "freeze_stages": 0,
    "text": "gru",
    "freeze_text": None,
    "fold": {"number": 1, "of": 2, "rule": "random", "seed": 0},
    "group": "",
}
PLANNED = {key: value for key, value in CONFIG.items() if key != "created_by"}
GROUP = {
    "created_by": "swancli 0.1.0",
    "members": [{"run": f"cv-fold{fold}", "label": "", "fold": fold, "config": PLANNED} for fold in (1, 2)],
}


MANIFEST = {
    "format": "swan-manifest",
    "version": 1,
    "source": "images",
    "images": "0" * 32,
    "checkpoint_sha256": "0" * 64,
    "configuration": "",
    "rendering": ["", ""],
    "precision": "fp32",
    "batch_size": 32,
    "shards": 2,
    "pieces": [[0, 512], [512, 600]],
    "scene_from": "auto",
    "missing": "error",
}
WRITTEN_MANIFEST = {**MANIFEST, "created_by": CREATED_BY}


BACKBONE = {"conv1.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)}


def write_weights(path: Path) -> None:
    torch.save({"state_dict": BACKBONE}, path)


# ---------------------------------------------------------------------------------------------------------
# reading all of it


def read_image(path: Path) -> np.ndarray:
    image_size(path)
    return decode_image(read_bytes(path), str(path))


def read_table_source(path: Path) -> Any:
    return read_source(path, "table")


def read_all_of_vocab(path: Path) -> Any:
    read_vectors(path)
    return read_vocabulary(path).encode("a river")


def read_all_of_dataset(path: Path) -> None:
    with Dataset(path) as dataset:
        rows = dataset.rows_of("train")
        dataset.digests(rows)
        dataset.catalogue.select(rows)
        for row in dataset.catalogue.image_rows(None):
            dataset.image(row)


def search_and_evaluate(path: Path) -> None:
    embeddings = open_embeddings(path)
    with embeddings.image.file:
        for found in exact_ranking(embeddings.image, np.arange(len(embeddings.image)), CPU).best(
            vectors(2), 3
        ):
            assert np.isfinite(found[1]).all()
    evaluate_file(path, split=None, ceiling=True, scenes=True, new_captions=True)


def read_all_of_part(path: Path) -> None:
    part = read_part(path, "0" * 32)
    read_part_vectors(path, len(part.pixel_digest), WIDTH)


def agree_with(path: Path) -> None:
    folder = ShardFolder(path.with_name("embeddings.h5"), Shard(1, 2))
    folder.folder.mkdir(exist_ok=True)
    shutil.copy(path, folder.manifest)
    folder.agree(MANIFEST, replace=False)


def read_all_of_features(path: Path) -> None:
    with Features(path) as features:
        features.varied(np.array([0, 3]), np.random.default_rng(0))
        features.plain(np.array([1, 4]))
        features.read(np.array([0, 3]))
        if features.has_states:
            features.read_states(np.array([0, 2, 9]))


def search_tiles(path: Path) -> None:
    with open_tiles(path) as file:
        rows, scores = tile_scores(file.tiles.blocks(), vectors(1), Path("scene.png"))
        frame = file.tiles.frame
        heat_map(file.tiles.boxes[rows], scores[:, 0], frame.height, frame.width)
        file.tiles.preview()


def ask_index(path: Path) -> None:
    embeddings = open_embeddings(path.with_suffix(".h5"))
    with embeddings.image.file:
        for _ in open_index(path.with_suffix(".h5"), embeddings).best(vectors(2), 3):
            pass


def encode_with(path: Path) -> None:
    checkpoint = load_checkpoint(path, captions_only=True)
    embed_texts(Encoder(checkpoint, "cpu"), ["a river"], "text")


def read_bert(path: Path) -> None:
    shape, weights, pieces = read_bert_folder(path.parent)
    bert = Bert(shape)
    bert.load_state_dict(weights)
    numbers = torch.tensor([pieces.encode("a river of roads")])
    bert.eval()(numbers, torch.tensor([numbers.shape[1]]))
    pieces.unknown("a river of roads")


def read_towers(path: Path) -> None:
    with patch.object(towers, "towers_file", lambda: path):
        towers.image_tower()
        text_transformer(MINILM)


def encode_with_folder(path: Path) -> None:
    encode_with(path.parent)


def read_scene(path: Path) -> None:
    with Raster(path) as raster:
        raster.read(np.array([0, 0, raster.frame.width, raster.frame.height]))


def write_scene(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)).save(path)


def write_annotations(path: Path) -> None:
    write_scene(path.parent / "scene.png")
    write_json(path, ANNOTATIONS)


READERS = {
    "image.png": Reader("1.png", lambda path: path.write_bytes(png()), read_image),
    "image.jpg": Reader("1.jpg", lambda path: Image.new("RGB", (9, 9)).save(path), read_image),
    "image.tif": Reader("1.tif", lambda path: Image.new("I;16", (9, 9)).save(path), read_image),
    "karpathy": Reader("dataset.json", lambda path: write_json(path, KARPATHY), read_source, spoil_json),
    "nwpu": Reader("dataset.json", lambda path: write_json(path, NWPU), read_source, spoil_json),
    "precomp": Reader("train_caps.txt", write_precomp, lambda path: read_source(path.parent, "precomp")),
    "ucm": Reader("descriptions_small.txt", write_ucm, lambda path: read_source(path.parent, "ucm")),
    "csv": Reader("table.csv", lambda path: write_text(path, TABLE), read_table_source),
    "tsv": Reader("table.tsv", lambda path: write_text(path, TABLE.replace(",", "\t")), read_table_source),
    "parquet": Reader("table.parquet", write_parquet, read_table_source),
    "vocab.json": Reader("vocab.json", lambda path: export_json(path, WORDS), read_vocabulary, spoil_json),
    "vocab.h5": Reader("vocab.h5", write_vocab, read_all_of_vocab, spoil_hdf5),
    "glove": Reader(
        "glove.txt", write_glove, lambda path: read_word_vectors(path, WORDS.words, lambda *_: None)
    ),
    "dataset.h5": Reader("dataset.h5", write_dataset, read_all_of_dataset, spoil_hdf5),
    "dataset.h5, encoded": Reader(
        "dataset.h5", lambda path: write_dataset(path, encoded=True), read_all_of_dataset, spoil_hdf5
    ),
    "embeddings.h5": Reader("embeddings.h5", write_small_embeddings, search_and_evaluate, spoil_hdf5),
    "piece": Reader("piece-000000.h5", write_small_part, read_all_of_part, spoil_hdf5),
    "manifest.json": Reader(
        "manifest.json",
        lambda path: write_json(path, WRITTEN_MANIFEST),
        agree_with,
        spoil_json,
    ),
    "features.h5": Reader("features.h5", write_features, read_all_of_features, spoil_hdf5),
    "features.h5, captions": Reader(
        "features.h5", write_features_with_states, read_all_of_features, spoil_hdf5
    ),
    "tiles": Reader("tiles-scene.png.h5", write_small_tiles, search_tiles, spoil_hdf5),
    "index": Reader("embeddings.index", write_index, ask_index, spoil_hdf5),
    "checkpoint": Reader("best.pt", write_checkpoint, encode_with, spoil_torch),
    "checkpoint, text transformer": Reader("best.pt", write_text_transformer, encode_with, spoil_torch),
    "weights": Reader("weights.pth", write_weights, read_weights, spoil_torch),
    "weights, safetensors": Reader(
        "weights.safetensors", lambda path: save_file(BACKBONE, path), read_weights, spoil_safetensors
    ),
    "towers.pt": Reader("towers.pt", write_towers, read_towers, spoil_torch),
    "BERT, config.json": Reader("config.json", write_bert, read_bert, spoil_json),
    "BERT, tokenizer.json": Reader("tokenizer.json", write_bert, read_bert, spoil_json),
    "BERT, model.safetensors": Reader("model.safetensors", write_bert, read_bert, spoil_safetensors),
    "config.json": Reader(
        "config.json",
        lambda path: write_json(path, CONFIG),
        lambda path: resumed_config(Run(path.parent)),
        spoil_json,
    ),
    "group.json": Reader(
        "group.json",
        lambda path: write_json(path, GROUP),
        lambda path: Group(path.parent).members(),
        spoil_json,
    ),
    "annotations": Reader("places.json", write_annotations, read_annotations, spoil_json),
    "scene": Reader("scene.tif", write_scene, read_scene),
}
if find_spec("open_clip"):  # the extra `clip`
    READERS |= {
        f"open_clip, {file}": Reader(file, write_open_clip, encode_with_folder, spoil)
        for file, spoil in (
            ("open_clip_config.json", spoil_json),
            ("tokenizer.json", spoil_json),
            ("tokenizer_config.json", spoil_json),
            ("open_clip_model.safetensors", spoil_safetensors),
        )
    }
