"""What `swan demo` adds to the other commands: its settings, and the yardsticks beside its recall."""

from __future__ import annotations

from pathlib import Path

from swancli.evaluate.metrics import Scores, chance_scores, retrieval_scores, scene_oracle_scores
from swancli.store.embeddings import read_embeddings
from swancli.workspace import DEMO

DATASET = DEMO
QUERIES = (
    "five white planes in the upper left of the airport",
    "three black boats in the center of the harbor",
)
# Small enough for two minutes on two cores. Views are not turned: the captions say left and right.
TRAINING = {
    "image_size": 64,
    "embed_dim": 128,
    "batch_size": 160,
    "lr": 1e-3,
    "augmentation": "none",
    "schedule": "step",  # five epochs are too few to rise and fall in
}


def yardsticks(embeddings: Path, split: str = "test") -> dict[str, Scores]:
    """Scores on one split of the model, of an oracle that knows the scene and nothing else, and of chance."""
    stored = read_embeddings(embeddings)
    rows = stored.catalogue.image_rows(split)
    part, captions = stored.catalogue.select(rows)
    return {
        "SWAN": retrieval_scores(stored.image[rows], stored.caption[captions], part.image),
        "knows the scene only": scene_oracle_scores(part.scene, part.image),
        "chance": chance_scores(part.image, len(rows)),
    }
