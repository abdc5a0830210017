"""What the demo promises: the model knows more than the scene, and nothing once captions are shuffled."""

import numpy as np
import pytest
from conftest import execute

from swancli.commands.demo import TRAINING, yardsticks
from swancli.embed.embed import embed_dataset
from swancli.evaluate.metrics import retrieval_scores
from swancli.evaluate.similarity import embedding_grids
from swancli.model.checkpoint import load_checkpoint
from swancli.model.encoder import Encoder
from swancli.prepare.build import prepare_demo
from swancli.store.dataset import Dataset
from swancli.store.embeddings import read_embeddings, write_embeddings
from swancli.train.config import RunConfig, TrainSettings
from swancli.train.loop import Watch
from swancli.train.run import train_run
from swancli.vocab.vocabulary import count_words, write_vocabulary
from swancli.workspace import Workspace


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory):
    """Embeddings of a demo half as large as the real one, trained the same way with smaller pictures."""
    workspace = Workspace(tmp_path_factory.mktemp("demo"))
    prepare_demo(workspace.dataset("demo"), images=600, size=64)
    with Dataset(workspace.dataset("demo")) as dataset:
        texts = dataset.catalogue.select(dataset.rows_of("train"))[0].text
    vocabulary = count_words(texts, min_count=1, stop_words="keep", dataset="demo")
    write_vocabulary(workspace.vocab("demo"), vocabulary)
    training = TrainSettings(
        epochs=4,
        batch_size=80,
        captions_per_image=5,
        lr=TRAINING["lr"],
        augmentation=TRAINING["augmentation"],
        schedule=TRAINING["schedule"],
    )
    config = RunConfig("demo", str(workspace.vocab("demo")), "", "resnet18", 32, 64, False, training)
    run = workspace.run("demo", "one")
    train_run(workspace, run, config, "cpu", resume=False, watch=Watch())
    checkpoint = load_checkpoint(run.best)
    with Dataset(workspace.dataset("demo")) as dataset:
        embeddings = embed_dataset(Encoder(checkpoint, "cpu"), dataset)
        write_embeddings(run.embeddings, embeddings, embeddings.catalogue.filename)
    return run.embeddings


def test_trained_model_knows_more_than_the_scene(embeddings):
    scores = {name: found.mean_recall for name, found in yardsticks(embeddings).items()}
    assert scores["SWAN"] > scores["knows the scene only"] > scores["chance"]


def test_recall_falls_to_chance_when_captions_are_shuffled_among_the_images(embeddings):
    stored = read_embeddings(embeddings)
    rows = stored.catalogue.image_rows("test")
    part, captions = stored.catalogue.select(rows)
    chance = yardsticks(embeddings)["chance"].mean_recall
    generator = np.random.default_rng(0)
    grids = embedding_grids(stored.image[rows], stored.caption[captions])
    shuffled = [retrieval_scores(grids, generator.permutation(part.image)).mean_recall for _ in range(50)]
    assert np.mean(shuffled) == pytest.approx(chance, rel=0.1)


def test_demo_shows_every_step_and_the_yardsticks(tmp_path):
    result = execute("demo", "--images", "60", "--epochs", "1", root=tmp_path)
    assert result.returncode == 0, result.stderr
    for text in ("prepare", "vocab", "train", "eval", "embed", "query"):
        assert f"$ swan {text}" in result.stdout
    for text in ("SWAN", "knows the scene only", "chance", "five white planes"):
        assert text in result.stdout
    own_photos = "$ swan embed --images path/to/photos\n\n$ swan query 'a car park beside a road'\n"
    assert result.stdout.endswith(own_photos)
