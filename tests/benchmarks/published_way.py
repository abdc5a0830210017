"""The same work done the way the published code does it (jaychempan/SWAN), to measure against.

Images are decoded once for each of their captions and held in float64; both towers run once for every pair of
shards; the memory format is the default one; the backbone's batch norms are separate layers; VMSF fuses maps
of full size; SFGS multiplies by its whole weighting and averages afterwards. Modules and weights are ours, so
that the results can be compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision import transforms

from swancli.machine.threads import read_ahead
from swancli.model.checkpoint import load_checkpoint
from swancli.model.inputs import pad_tokens
from swancli.model.settings import PIXEL_MEAN, PIXEL_STD, VISUAL_HEADS
from swancli.model.swan import Swan
from swancli.model.visual import VMSF, WeightedSelfAttention
from swancli.train.losses import hinge_loss

SHARD = 128
Hear = Callable[[str, int], None]


def fuse(vmsf: VMSF, deep1: torch.Tensor, deep2: torch.Tensor, deep3: torch.Tensor) -> torch.Tensor:
    """VMSF as the paper draws it; deep1 (B, C1, S/8, S/8) whole."""
    reduced = [
        F.interpolate(vmsf.reduce1(deep1), scale_factor=0.5),
        vmsf.reduce2(deep2),
        F.interpolate(vmsf.reduce3(deep3), scale_factor=2),
    ]
    return vmsf.project(vmsf.fuse(torch.cat(reduced, dim=1)).mean(dim=3).mean(dim=2))


def attend(layer: WeightedSelfAttention, tokens: torch.Tensor) -> torch.Tensor:
    """The weighted self-attention as the paper writes it: transpose(W) x, then the mean of D rows."""
    rate = layer.dropout.p if layer.training else 0.0
    query, key, value = (
        projection(tokens).unflatten(-1, (VISUAL_HEADS, -1)).transpose(1, 2)
        for projection in (layer.to_query, layer.to_key, layer.to_value)
    )
    scores = (query @ key.transpose(-1, -2)) / query.shape[-1] ** 0.5
    attended = F.dropout(scores.softmax(dim=-1), rate) @ value
    attended = layer.merge(attended.transpose(1, 2).flatten(start_dim=2))
    tokens = layer.norm1(tokens + F.dropout(attended, rate))
    tokens = layer.norm2(tokens + F.dropout(layer.feed_forward(tokens), rate))
    return torch.matmul(layer.token_weight.transpose(1, 2), tokens).mean(dim=1)


def encode_images(model: Swan, pixels: torch.Tensor) -> torch.Tensor:
    """Embeddings (B, D) of normalised pixels (B, 3, S, S)."""
    tower = model.image_tower
    with torch.no_grad():
        maps = model.backbone.network(pixels)
    whole = fuse(tower.vmsf, maps["deep1"], maps["deep2"], maps["deep3"])
    shallow = tower.shallow_filter(maps["shallow"])
    tokens = tower.sfgs.embed(torch.cat([branch(shallow) for branch in tower.sfgs.branches], dim=1))
    details = attend(tower.sfgs.attention, tokens)
    return F.normalize(tower.aggregate(torch.cat([details, whole], dim=1)), dim=-1)


def _pairs(source: Path, split: str) -> list[tuple[Path, str]]:
    """Every caption of a split with its image's file, in the source's order."""
    images = json.loads(source.read_text())["images"]
    return [
        (source.parent / "images" / image["filename"], sentence["raw"])
        for image in images
        if image["split"] == split
        for sentence in image["sentences"]
    ]


def evaluate(source: Path, checkpoint: Path, passes: int, hear: Hear) -> dict[str, object]:
    """Similarities of a test split with five captions an image.

    Args:
        passes: how many pairs of shards to take; 0 for all of them.

    Returns:
        How many passes there are; and, where all were taken, the path of the similarities (N, M), float32.
    """
    loaded = load_checkpoint(checkpoint)
    model, vocabulary = loaded.model, loaded.tokenizer
    size = model.settings.image_size
    prepare = transforms.Compose(
        [transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(PIXEL_MEAN, PIXEL_STD)]
    )
    pairs = _pairs(source, "test")
    shards = [-(-count // SHARD) for count in (len(pairs) // 5, len(pairs))]
    wanted = pairs if not passes else pairs[: 5 * SHARD]
    decoded = np.zeros((len(wanted), 3, size, size))
    for row, (path, _) in enumerate(wanted):
        decoded[row] = prepare(Image.open(path).convert("RGB")).numpy()
        hear("decoded", row + 1)
    images = decoded[::5]
    captions = [vocabulary.encode(text) for _, text in wanted]
    similarity = np.zeros((len(images), len(captions)), np.float32)
    done = 0
    for top in range(0, len(images), SHARD):
        for left in range(0, len(captions), SHARD):
            if passes and done == passes:
                break
            with torch.no_grad():
                pixels = torch.from_numpy(images[top : top + SHARD]).float()
                rows = encode_images(model, pixels)
                columns = model.encode_captions(*pad_tokens(captions[left : left + SHARD]))
            similarity[top : top + SHARD, left : left + SHARD] = (rows @ columns.T).numpy()
            done += 1
            hear("passes", done)
    result: dict[str, object] = {"passes": shards[0] * shards[1]}
    if not passes:
        result["similarity"] = str(source.with_name("similarity.npy"))
        np.save(result["similarity"], similarity)
    return result


def train(source: Path, checkpoint: Path, batch: int, steps: int, hear: Hear) -> dict[str, object]:
    """n steps of the published training; each pair is one image and one caption."""
    loaded = load_checkpoint(checkpoint)
    model, vocabulary = loaded.model, loaded.tokenizer
    size = model.settings.image_size
    vary = transforms.Compose(
        [
            transforms.Resize((round(size * 278 / 256),) * 2),
            transforms.RandomRotation((0, 90)),
            transforms.RandomCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(PIXEL_MEAN, PIXEL_STD),
        ]
    )
    pairs = _pairs(source, "train")
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-4)
    order = np.random.default_rng(0).permutation(len(pairs))
    model.train()
    model.backbone.network.train()  # its batch norms run in training mode: item 6

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        for step in range(steps):
            rows = np.take(order, range(step * batch, (step + 1) * batch), mode="wrap")
            pixels = torch.stack([vary(Image.open(pairs[row][0]).convert("RGB")) for row in rows])
            yield pixels, *pad_tokens([vocabulary.encode(pairs[row][1]) for row in rows])

    # Its loader has processes of its own; a thread ahead does as much for it.
    for step, (pixels, tokens, lengths) in enumerate(read_ahead(batches())):
        scores = encode_images(model, pixels) @ model.encode_captions(tokens, lengths).T
        optimizer.zero_grad()
        positive = torch.eye(batch, dtype=torch.bool)
        hinge_loss(scores, positive, ~positive).backward()
        optimizer.step()
        hear("steps", step + 1)
    return {}
