"""On a GPU nothing mixes devices, and the host waits only where it has to; shown without a GPU.

A training step that waits for the one before it leaves the GPU idle while the next one is prepared.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_workspace import make_workspace
from simulated_gpu import ShapeOfValues, TwoDevices, simulated_gpu

from swancli.model.checkpoint import Checkpoint
from swancli.model.encoder import Encoder
from swancli.model.settings import BertShape, ModelSettings
from swancli.model.swan import Swan
from swancli.query.ranking import HeldRanking, StreamedRanking
from swancli.store.dataset import Dataset
from swancli.train import loop
from swancli.train.config import TrainSettings
from swancli.train.pretrain import SceneSettings, train_on_scenes

# Copying a model reads an address that its weights do not have.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer")

CUDA = torch.device("cuda")
LAYERS = 1
BERT = BertShape(pieces=50, positions=20, width=16, layers=LAYERS, heads=4, inner=24, eps=1e-12)
SETTINGS = ModelSettings(50, "resnet18", 32, 16, bert=BERT, freeze_text=LAYERS)
COPY, UNPINNED = "a copy to the GPU", "a copy to the GPU of memory that is not pinned"
VALUE, BACK, ALL = "a value", "a copy to the host", "synchronize"


class Letters:
    """A tokenizer: the number of a word is that of its letters; padded, where the model needs that."""

    def __init__(self, settings):
        text = (settings.open_clip or {}).get("text_cfg", {})
        self._padding = [0] * text.get("context_length", 0)

    def encode_all(self, texts):
        tokens = [[len(word) for word in text.split()] for text in texts]
        return [[*words, *self._padding[len(words) :]] for words in tokens]


class Waits(loop.Watch):
    """What the host waited for in each step of an epoch, and after the last one."""

    def __init__(self, gpu):
        self._gpu, self.steps, self.end = gpu, [], []

    def part(self, first, last, what):
        self._gpu.taken()  # of moving the model

    def step(self, epoch, step, steps, loss, pairs_per_second):
        self.steps.append(self._gpu.taken())

    def epoch(self, report):
        self.end = self._gpu.taken()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="module")
def dataset(workspace):
    with Dataset(workspace.dataset("tiny")) as dataset:
        yield dataset


@pytest.fixture
def gpu():
    torch.manual_seed(0)
    with simulated_gpu() as gpu:
        yield gpu


def made_model(kind):
    """A model with one of swan's backbones, or a small one of open_clip."""
    if kind != "open_clip":
        return Swan(replace(SETTINGS, backbone=kind))
    from swancli.model.open_clip import OpenClip

    config = pytest.importorskip("made_clip").model_cfg()
    return OpenClip(ModelSettings(0, "open_clip/made", 32, 16, open_clip=config))


TRAINED = {
    "default-recipe": (
        replace(SETTINGS, backbone="timm/test_efficientnet", freeze_stages=2, without=("vmsf", "sfgs")),
        TrainSettings(loss="contrastive", average=0.99, clip_norm=1.0),
    ),
    "hinge-text-trained": (
        replace(SETTINGS, frozen=True, freeze_text=0),
        TrainSettings(loss="hardest", augmentation="paper", own_captions_only=True),
    ),
}


# ---------------------------------------------------------------------------------------------------------
# the simulated GPU itself


@pytest.mark.parametrize(
    "mixed",
    [lambda here, there: here + there, lambda here, there: there[here.long()], torch.dot],
    ids=["sum", "index", "product"],
)
def test_tensors_on_two_devices_are_refused(gpu, mixed):
    here = torch.ones(3)
    with pytest.raises(TwoDevices, match=r"on cpu.*on cuda|on cuda.*on cpu"):
        mixed(here, here.to(CUDA))


@pytest.mark.parametrize(
    ("action", "waits"),
    [
        (lambda here, there: float(there[0]), [VALUE]),
        (lambda here, there: bool(there[0] > 0), [VALUE]),
        (lambda here, there: there.cpu(), [BACK]),
        (lambda here, there: here.copy_(there), [BACK]),
        (lambda here, there: torch.tensor([1.0], device=CUDA), [COPY]),
        (lambda here, there: here.to(CUDA), [COPY]),
        (lambda here, there: here.pin_memory().to(CUDA), [COPY]),
        (lambda here, there: here.to(CUDA, non_blocking=True), [UNPINNED]),
        (lambda here, there: here.pin_memory()[1:].to(CUDA, non_blocking=True), []),
        (lambda here, there: (there * 2 + there.sum()).to("cpu", non_blocking=True), []),
        (lambda here, there: torch.cuda.synchronize(), [ALL]),
    ],
)
def test_waits_of_the_host_are_recorded(gpu, action, waits):
    here = torch.ones(3)
    there = here.to(CUDA)
    gpu.taken()
    action(here, there)
    assert gpu.waits == waits


@pytest.mark.parametrize("selected", [torch.nonzero, lambda there: there[there > 0], torch.unique])
def test_shapes_that_depend_on_values_are_refused(gpu, selected):
    with pytest.raises(ShapeOfValues):
        selected(torch.ones(3, device=CUDA))


def test_copies_to_the_host_have_values_only_after_it_has_waited(gpu):
    copy = torch.ones(3, device=CUDA).to("cpu", non_blocking=True)
    assert copy.isnan().all()
    torch.cuda.synchronize()
    assert copy.isfinite().all()


# ---------------------------------------------------------------------------------------------------------
# swan


@pytest.mark.parametrize("kind", ["resnet18", "open_clip"])
def test_embedding_waits_once_at_its_end(gpu, kind):
    model = made_model(kind)
    encoder = Encoder(Checkpoint.unsaved(model, Letters(model.settings)), CUDA, batch_size=2)
    gpu.taken()
    pictures = [np.full((40, 40, 3), shade, np.uint8) for shade in range(4)]
    assert encoder.images(pictures).shape == (4, 16)
    assert gpu.taken() == [ALL]
    assert encoder.captions(["a b", "a river beside a road"]).shape == (2, 16)
    assert gpu.taken() == [ALL]


@pytest.mark.parametrize("recipe", TRAINED)
def test_training_waits_only_where_it_looks_at_the_loss(gpu, recipe, dataset, workspace, monkeypatch):
    monkeypatch.setattr(loop, "save_checkpoint", nothing)  # there are no values to save
    model_settings, settings = TRAINED[recipe]
    run, watch = workspace.run("tiny", recipe), Waits(gpu)
    run.folder.mkdir(parents=True)
    data = loop.training_data(dataset, Letters(model_settings))
    small = {"epochs": 1, "batch_size": 3, "captions_per_image": 1, "hide_rare_words": False}
    loop.train(data, Swan(model_settings), replace(settings, **small), run, CUDA, watch)
    first, second, last = watch.steps
    assert (set(first), second, set(last)) == ({VALUE}, [], {VALUE})
    # The mean loss; the embeddings of the validation images, and of their captions.
    assert watch.end == [VALUE, ALL, ALL]


def test_pretraining_on_scenes_waits_only_where_it_looks_at_the_loss(gpu, dataset, tmp_path):
    waits = []
    settings = SceneSettings(image_size=64, epochs=1, batch_size=1)
    train_on_scenes(
        dataset, settings, tmp_path / "backbone.pt", CUDA, lambda *_: waits.append(gpu.taken()), nothing
    )
    assert waits[1:3] == [[], []]
    assert set(waits[3]) == {VALUE}


@pytest.mark.parametrize("search", [HeldRanking, StreamedRanking])
def test_search_computes_on_one_device(gpu, search, tmp_path):
    import h5py

    with h5py.File(tmp_path / "vectors.h5", "w") as file:
        vectors = file.create_dataset("image", data=np.eye(4, 16, dtype=np.float32))
        file.flush()
        found = search(vectors, np.arange(4), CUDA).best(np.eye(2, 16, dtype=np.float32), 2)
        assert len(list(found)) == 2


def nothing(*_, **__):
    """In place of a function whose work is not needed."""
