"""Models of open_clip against open_clip's own reading of the same files."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch
from made_clip import (
    FORMS,
    NAME,
    make_model,
    model_cfg,
    open_clip,
    register,
    save_folder,
    save_tokenizer,
    save_weights,
)
from PIL import Image

from swancli.errors import StoreError, SwanError
from swancli.model.clip_tokenizer import ClipTokenizer
from swancli.model.inputs import pad_tokens, stack_images
from swancli.model.open_clip import OpenClip, is_open_clip, read_open_clip
from swancli.model.settings import ModelSettings
from swancli.model.weights import without_random_start

pytestmark = pytest.mark.filterwarnings("ignore:.* texts are cut")  # that of `TEXTS` has a test of its own
SIZES = ((40, 60), (64, 64), (101, 33), (7, 9))  # height and width in pixels
TEXTS = (
    "Many planes are parked near a terminal.",
    "a river",
    "",
    "Ein Café &amp; viele Bäume, 飞机场",
    "one two three four five six seven eight nine ten eleven twelve thirteen",
)
HALF = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear", "resize_mode": "squash"}


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with the weights of a small model in each form, whose name is registered."""
    folder = tmp_path_factory.mktemp("made clip")
    cfg = model_cfg()
    register(folder / "configs", cfg)
    model = make_model(cfg)
    for form in FORMS:
        save_weights(folder / (f"{form}.safetensors" if form == "safetensors" else f"{form}.pt"), model, form)
    save_folder(folder / "model", model, cfg)
    return folder


def loaded(file, settings=None, *, captions_only=False):
    """The model of a file, filled as checkpoints are."""
    settings = settings or file.settings
    with without_random_start():
        model = OpenClip(settings, captions_only)
    model.load_state_dict({name: file.weights[name] for name in model.state_dict()})
    return model.eval()


def embeddings(model, tokenizer, pictures):
    """Embeddings of pictures and of TEXTS, as `Encoder` computes them."""
    prepare = model.settings.preprocessing
    batch = prepare.normalise(stack_images([prepare.resized(pixels) for pixels in pictures]))
    with torch.inference_mode():
        return model.encode_images(batch), model.encode_captions(*pad_tokens(tokenizer.encode_all(TEXTS)))


def reference(name, pictures, file=None):
    """The same by open_clip alone."""
    model, prepare = open_clip.create_model_from_pretrained(name, pretrained=file and str(file))
    batch = torch.stack([prepare(Image.fromarray(pixels)) for pixels in pictures])
    with torch.inference_mode():
        image = model.eval().encode_image(batch, normalize=True)
        return image, model.encode_text(open_clip.get_tokenizer(name)(list(TEXTS)), normalize=True)


def agree(ours, theirs):
    for own, other in zip(ours, theirs, strict=True):
        assert own.shape == other.shape
        assert own.dtype == torch.float32
        assert (own - other).abs().max() < 1e-5


def refused(name, *parts, kind=SwanError):
    with pytest.raises(kind) as caught:
        read_open_clip(name)
    for part in parts:
        assert part in str(caught.value)
    return caught.value


# embeddings


@pytest.mark.parametrize("file", ["plain.pt", "module.pt", "half.pt", "safetensors.safetensors"])
def test_embeddings_equal_those_of_open_clip_in_each_form_of_file(made, pictures, file):
    read = read_open_clip(f"open_clip:{NAME}:{made / file}")
    ours = embeddings(loaded(read), read.tokenizer, pictures)
    agree(ours, reference(NAME, pictures, made / file))
    assert read.path == made / file
    assert (read.settings.name, read.settings.fit) == (f"open_clip:{NAME}", "crop")
    assert (read.settings.words, read.settings.embed_dim, read.settings.image_size) == (49408, 16, 32)
    assert (read.settings.activation, read.warnings) == ("gelu", ())


def test_embeddings_with_quick_gelu_are_others(made, pictures):
    file = made / "plain.pt"
    read = read_open_clip(f"open_clip:{NAME}-quickgelu:{file}")
    ours = embeddings(loaded(read), read.tokenizer, pictures)
    agree(ours, reference(f"{NAME}-quickgelu", pictures, file))
    assert read.settings.activation == "quick_gelu"
    assert (ours[0] - reference(NAME, pictures, file)[0]).abs().max() > 1e-3


@pytest.mark.parametrize("prefix", ["", "open_clip:"])
def test_embeddings_of_a_folder_equal_those_of_open_clip(made, pictures, prefix):
    read = read_open_clip(f"{prefix}{made / 'model'}")
    ours = embeddings(loaded(read), read.tokenizer, pictures)
    agree(ours, reference(f"local-dir:{made / 'model'}", pictures))
    assert read.path.name == "open_clip_model.safetensors"
    assert read.settings.backbone == "open_clip/model"


@pytest.mark.parametrize(
    ("cfg", "preprocess"),
    [
        (model_cfg("resnet", quick_gelu=True), {"mean": 0.5, "interpolation": "random"}),
        (model_cfg("timm", custom_text=True, init_logit_bias=-10), HALF),
        (
            model_cfg(
                custom_text=True, text={"pool_type": "last", "proj_bias": True, "no_causal_mask": True}
            ),
            HALF,
        ),
        (model_cfg(text={"tokenizer_kwargs": {"clean": "canonicalize"}}), {"size": 224}),
    ],
    ids=["resnet", "timm", "custom text", "tokenizer options"],
)
def test_embeddings_of_other_kinds_of_towers_equal_those_of_open_clip(tmp_path, pictures, cfg, preprocess):
    folder = save_folder(tmp_path / "model", make_model(cfg), cfg, preprocess, "open_clip_pytorch_model.bin")
    read = read_open_clip(folder)
    ours = embeddings(loaded(read), read.tokenizer, pictures)
    agree(ours, reference(f"local-dir:{folder}", pictures))


def test_settings_weights_and_tokenizer_of_a_checkpoint_make_the_same_model(made, tmp_path, pictures):
    read = read_open_clip(made / "model")
    model = loaded(read)
    content = {
        "settings": dataclasses.asdict(model.settings),
        "model": model.state_dict(),
        "vocabulary": read.tokenizer.to_plain(),
    }
    torch.save(content, tmp_path / "best.pt")
    content = torch.load(tmp_path / "best.pt", weights_only=True)
    again = OpenClip(ModelSettings.from_plain(content["settings"]))
    again.load_state_dict(content["model"])
    tokenizer = ClipTokenizer.from_plain(content["vocabulary"])
    assert (again.settings, tokenizer) == (read.settings, read.tokenizer)
    for own, other in zip(
        embeddings(again.eval(), tokenizer, pictures),
        embeddings(model, read.tokenizer, pictures),
        strict=True,
    ):
        assert torch.equal(own, other)


@pytest.mark.parametrize("vision", ["vit", "timm"])
@pytest.mark.parametrize("custom_text", [False, True])
def test_a_model_for_captions_only_has_no_image_tower(tmp_path, vision, custom_text):
    cfg = model_cfg(vision, custom_text=custom_text)
    read = read_open_clip(save_folder(tmp_path / "model", make_model(cfg), cfg))
    tokens = pad_tokens(read.tokenizer.encode_all(TEXTS))
    whole, alone = loaded(read), loaded(read, captions_only=True)
    assert {name for name in whole.state_dict() if ".visual." not in name} == set(alone.state_dict())
    with torch.inference_mode():
        assert torch.equal(alone.encode_captions(*tokens), whole.encode_captions(*tokens))


# what open_clip settles when it loads


def test_an_older_file_fits_a_model_with_a_text_tower_of_its_own(tmp_path, pictures):
    old = make_model(model_cfg())
    name = register(tmp_path / "configs", model_cfg(custom_text=True, init_logit_bias=-10), "made-custom")
    weights = old.state_dict() | {"logit_scale": torch.ones(1), "context_length": torch.tensor(12)}
    torch.save(weights, tmp_path / "old.pt")
    read = read_open_clip(f"open_clip:{name}:{tmp_path / 'old.pt'}")
    assert read.weights["clip.logit_bias"] == 0
    ours = embeddings(loaded(read), read.tokenizer, pictures)
    agree(ours, reference(name, pictures, save_weights(tmp_path / "plain.pt", old)))


# training


@pytest.mark.parametrize("custom_text", [False, True])
def test_parts_are_the_two_towers_and_no_scale_is_trained(made, custom_text):
    settings = read_open_clip(made / "model").settings
    config = settings.open_clip | {"custom_text": custom_text, "init_logit_bias": -10}
    model = OpenClip(dataclasses.replace(settings, open_clip=config))
    parts = model.parts()
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert {name for name, _ in model.named_parameters()} - trained == {"clip.logit_scale", "clip.logit_bias"}
    assert {id(weight) for weight in parts["backbone"]} == {
        id(weight) for weight in model.clip.visual.parameters()
    }
    assert (sum(map(len, parts.values())), parts["heads"]) == (len(trained), [])


def test_a_frozen_image_tower_is_not_trained_and_its_batch_norms_do_not_drift(tmp_path):
    cfg = model_cfg("resnet")
    read = read_open_clip(save_folder(tmp_path / "model", make_model(cfg), cfg))
    model = loaded(read, dataclasses.replace(read.settings, frozen=True)).train()
    before = {name: value.clone() for name, value in model.clip.visual.state_dict().items()}
    assert not model.encode_images(torch.randn(2, 3, 64, 64)).requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.clip.visual.state_dict().items())
    assert model.training
    assert model.parts()["backbone"] == []
    assert (
        len(model.parts()["text"])
        == len([n for n, _ in model.clip.named_parameters() if "visual" not in n]) - 1
    )
    fine = loaded(read).train()
    fine.encode_images(torch.randn(2, 3, 64, 64)).sum().backward()
    assert not torch.equal(fine.clip.visual.bn1.running_mean, before["bn1.running_mean"])


@pytest.mark.parametrize("custom_text", [False, True])
def test_freeze_text_freezes_tables_and_first_layers(made, custom_text):
    settings = read_open_clip(made / "model").settings
    config = settings.open_clip | {"custom_text": custom_text}
    model = OpenClip(dataclasses.replace(settings, freeze_text=2, open_clip=config))
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    expected = (
        "token_embedding",
        "positional_embedding",
        "transformer.resblocks.0.",
        "transformer.resblocks.1.",
    )
    text = "clip.text." if custom_text else "clip."
    assert frozen == {"clip.logit_scale"} | {
        name
        for name, _ in model.named_parameters()
        if name.startswith(tuple(text + part for part in expected))
    }


def test_a_training_step_changes_both_towers(made):
    read = read_open_clip(made / "model")
    model = loaded(read).train()
    image = model.encode_images(torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    caption = model.encode_captions(*pad_tokens(read.tokenizer.encode_all(TEXTS[:3])))
    (image @ caption.T).diagonal().sum().backward()
    assert all(weight.grad is not None for part in model.parts().values() for weight in part)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"freeze_text": 4}, "--freeze-text 4: the text transformer has 3 layers"),
        ({"freeze_stages": 1}, "--freeze-stages 1"),
    ],
)
def test_what_cannot_be_frozen_is_refused(made, changes, problem):
    settings = read_open_clip(made / "model").settings
    with pytest.raises(SwanError, match=problem):
        OpenClip(dataclasses.replace(settings, **changes))


# names


def test_only_the_prefix_and_folders_with_a_configuration_are_open_clip(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)  # is not imported for this
    assert is_open_clip("open_clip:anything")
    assert is_open_clip(made / "model")
    assert not is_open_clip(made)
    assert not is_open_clip("shipped")
    monkeypatch.chdir(made / "model")
    assert not is_open_clip("")
    assert is_open_clip(".")
    error = refused(made / "model")
    assert error.hint == "install the extra: pip install 'swancli[clip]'"


def test_a_file_name_may_contain_colons_and_spaces(made, tmp_path):
    path = tmp_path / "epoch 3: best.pt"
    path.write_bytes((made / "plain.pt").read_bytes())
    assert read_open_clip(f"open_clip:{NAME}:{path}").path == path


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("open_clip:ViT-B-31:x.pt", ("open_clip:ViT-B-31", "ViT-B-32")),
        ("open_clip:qqqqqqqq:x.pt", ("no model of this name", "open_clip:NAME:FILE")),
        ("open_clip:ViT-B-32:laion2b_s34b_b79k", ("laion2b_s34b_b79k: no such file", "swan downloads none")),
        ("open_clip:", ("'open_clip:': names no model or no file",)),
        ("open_clip:ViT-B-32:", ("'open_clip:ViT-B-32:': names no model or no file",)),
        ("open_clip:nowhere", ("nowhere: no such folder",)),
        ("open_clip:.", (".: has no open_clip_config.json",)),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(tmp_path, monkeypatch, name, parts):
    monkeypatch.chdir(tmp_path)
    refused(name, *parts)


# files


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"head.weight": torch.ones(2)}, "1 weights are unknown, first head.weight"),
        ({"visual.proj": None}, "1 weights are missing, first visual.proj"),
        ({"visual.proj": torch.ones(32, 8)}, "first visual.proj: (32, 8) instead of (32, 16)"),
        ({"visual.positional_embedding": torch.ones(10, 32)}, "(10, 32) instead of (5, 32)"),
        (
            {"ln_final.bias": torch.full((16,), torch.nan)},
            "1 of its weights contain NaN or infinity, first ln_final",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(made, tmp_path, change, problem):
    weights = torch.load(made / "plain.pt", weights_only=True) | change
    path = tmp_path / "other.pt"
    torch.save({key: value for key, value in weights.items() if value is not None}, path)
    error = refused(f"open_clip:{NAME}:{path}", str(path), problem)
    assert "\n" not in error.problem


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_torchscript_archive_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "ViT-B-32.pt"
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(path)
    refused(f"open_clip:{NAME}:{path}", "TorchScript", "load_openai_model", "-quickgelu", kind=StoreError)


class _Code:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def test_code_in_a_file_is_refused_and_not_run(made, tmp_path):
    path, mark = tmp_path / "code.pt", tmp_path / "mark"
    torch.save(torch.load(made / "plain.pt", weights_only=True) | {"visual.proj": _Code(mark)}, path)
    refused(f"open_clip:{NAME}:{path}", f"{path}: contains no state dict")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("cfg", "problem"),
    [
        (model_cfg(multimodal_cfg={"layers": 1}), "multimodal_cfg is for a model that writes captions"),
        (model_cfg(text={"hf_model_name": "roberta-base"}), "hf_model_name roberta-base"),
        (model_cfg() | {"vision_cfg": {"timm_model_name": "hf-hub:timm/x"}}, "would be downloaded"),
        (model_cfg() | {"vision_cfg": {"timm_model_name": "no_such"}}, "cannot build it"),
        (model_cfg() | {"vision_cfg": {"image_size": [32, 64]}}, "square"),
        (model_cfg(surprise=1), "surprise"),
        ({"embed_dim": 16}, "no key vision_cfg"),
        (
            model_cfg(text={"tokenizer_kwargs": {"reduction_mask": "syntax"}}),
            "tokenizer_kwargs.reduction_mask",
        ),
        (model_cfg(text={"vocab_size": 1000}), "gives the number 49407, but the model has 1000 tokens"),
    ],
)
def test_a_model_of_another_kind_is_refused(made, tmp_path, cfg, problem):
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg}))
    (tmp_path / "open_clip_model.safetensors").write_bytes((made / "safetensors.safetensors").read_bytes())
    refused(tmp_path, str(tmp_path / "open_clip_config.json"), problem)


@pytest.mark.parametrize(
    ("preprocess", "problem"),
    [
        ({"resize_mode": "longest"}, "resize_mode 'longest' is not shortest or squash"),
        ({"mean": [1, 2]}, "mean [1, 2]"),
        ({"std": [0, 1, 1]}, "std [0, 1, 1]"),
    ],
)
def test_preprocessing_that_swan_cannot_do_is_refused(made, tmp_path, preprocess, problem):
    content = {"model_cfg": model_cfg(), "preprocess_cfg": preprocess}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
    (tmp_path / "open_clip_model.safetensors").write_bytes((made / "safetensors.safetensors").read_bytes())
    refused(tmp_path, "preprocess_cfg", problem)


def test_a_folder_has_one_file_of_weights_or_one_that_open_clip_prefers(made, tmp_path):
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg()}))
    refused(tmp_path, "no weights")
    for name in ("b.pth", "a.bin", "open_clip_pytorch_model.bin"):
        (tmp_path / name).write_bytes((made / "plain.pt").read_bytes())
        if name == "a.bin":
            refused(tmp_path, "several files of weights (a.bin, b.pth)")
        else:
            assert read_open_clip(tmp_path).path.name == name


# warnings


@pytest.mark.parametrize(
    ("name", "warns"),
    [
        ("RemoteCLIP-ViT-B-32.pt", True),
        ("RS5M_ViT-B-32_RET-2.pt", True),
        ("RS5M_ViT-L-14-336.pt", True),
        ("RS5M_ViT-H-14.pt", False),
        ("SkyCLIP_ViT_L14_top30pct/epoch_20.pt", True),
        ("SkyCLIP_ViT_B32_top50pct/epoch_20.pt", False),
        ("FarSLIP1_ViT-B-32.pt", True),
        ("vit_base_patch32_clip_224.openai/weights.pt", True),
        ("mine.pt", False),
    ],
)
def test_a_file_that_needs_quick_gelu_is_reported_and_its_name_decides(made, tmp_path, name, warns):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes((made / "plain.pt").read_bytes())
    read = read_open_clip(f"open_clip:{NAME}:{path}")
    assert read.settings.activation == "gelu"
    assert len(read.warnings) == warns
    if warns:
        assert f"give open_clip:{NAME}-quickgelu:{path}" in read.warnings[0]
    assert read_open_clip(f"open_clip:{NAME}-quickgelu:{path}").warnings == ()


def test_a_folder_that_needs_quick_gelu_is_reported(made):
    cfg = model_cfg()
    folder = save_folder(made / "RemoteCLIP-ViT-B-32", make_model(cfg), cfg)
    (warning,) = read_open_clip(folder).warnings
    assert '"quick_gelu": true' in warning


def test_a_name_whose_published_weights_need_other_preprocessing_is_reported():
    from swancli.model.open_clip import _other_preprocessing

    assert "squash" in _other_preprocessing("PE-Core-B-16")
    assert _other_preprocessing("ViT-B-32") == ""
    assert _other_preprocessing("ViT-H-14") == ""  # one of its four needs another, but not all


def test_reading_a_model_prints_nothing(made, capfd):
    loaded(read_open_clip(made / "model"))
    assert capfd.readouterr() == ("", "")


# tokenizers


def test_the_byte_pairs_know_latin_words_only():
    text = "Airports in 2020: das Café, аэропорт 飞机场, vq storagetanks R2D2 aéroport's qxj!"
    tokenizer = ClipTokenizer()
    assert tokenizer.unknown(text) == ["аэропорт", "飞机场", "vq"]
    assert len(tokenizer) == 49408
    assert tokenizer.encode(text) == open_clip.get_tokenizer("ViT-B-32")([text])[0].tolist()


def test_texts_that_are_cut_are_counted_once(recwarn):
    tokenizer = ClipTokenizer(context_length=5)  # three words, a start and an end
    texts = ["river", "a river bridge", "a river and a bridge", "a river near a road", ""]
    rows = tokenizer.encode_all(texts)
    assert rows == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_all(texts[::-1]) == rows[::-1]
    assert tokenizer.encode_all([]) == []
    (warned,) = recwarn
    assert str(warned.message) == "2 of 5 texts are cut: they have more than 5 tokens"
    assert warned.filename == __file__


def test_a_folder_s_own_tokenizer_gives_the_numbers_of_open_clip(tmp_path, recwarn):
    # By hand from the pieces of `save_tokenizer`. open_clip.get_tokenizer("local-dir:FOLDER") gave the same
    # with transformers 5.24, also for tokenizers of the classes T5, Gemma, Llama, XLM-RoBERTa and CLIP.
    own = {"hf_tokenizer_name": "hub/name", "context_length": 8, "vocab_size": 11}
    cfg = model_cfg(text=own)
    folder = save_folder(tmp_path / "model", make_model(cfg), cfg)
    save_tokenizer(folder)
    tokenizer = read_open_clip(folder).tokenizer
    texts = ["Many planes near a river.", "  a   harbor ", "", "river " * 20]
    rows = [
        [2, 4, 5, 6, 7, 8, 9, 3],
        [2, 8, 1, 3, 0, 0, 0, 0],
        [2, 3, 0, 0, 0, 0, 0, 0],
        [2, 9, 9, 9, 9, 9, 9, 3],
    ]
    assert tokenizer.encode_all(texts) == rows
    assert str(recwarn[-1].message) == "2 of 4 texts are cut: they have more than 8 tokens"
    assert tokenizer.encode(texts[0]) == rows[0]
    assert tokenizer.unknown("A harbor near 河 (many rivers).") == ["harbor", "河"]
    assert ClipTokenizer.from_plain(tokenizer.to_plain()).encode_all(texts) == rows
    save_tokenizer(folder, padding_side="left", truncation_side="left")
    left = read_open_clip(folder).tokenizer
    assert left.encode_all(texts[:2]) == [[2, 5, 6, 7, 8, 9, 10, 3], [0, 0, 0, 0, 2, 8, 1, 3]]


def test_the_separator_of_a_tokenizer_can_be_stripped(tmp_path):
    options = {"clean": "canonicalize", "strip_sep_token": True}
    own = {
        "hf_tokenizer_name": "hub/name",
        "context_length": 8,
        "vocab_size": 11,
        "tokenizer_kwargs": options,
    }
    cfg = model_cfg(text=own)
    folder = save_folder(tmp_path / "model", make_model(cfg), cfg)
    save_tokenizer(folder)
    assert read_open_clip(folder).tokenizer.encode("A river.") == [2, 8, 9, 0, 0, 0, 0, 0]


def test_a_folder_without_its_tokenizer_is_refused(tmp_path):
    cfg = model_cfg(text={"hf_tokenizer_name": "hub/name", "vocab_size": 11})
    folder = save_folder(tmp_path / "model", make_model(cfg), cfg)
    refused(folder, f"{folder}: no tokenizer.json", "hub/name", "copy tokenizer.json")
    save_tokenizer(folder, pad_token=None)
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(content | {"padding": None}))
    refused(folder, "tokenizer.json: no pad_token", "tokenizer_config.json")
    (folder / "tokenizer.json").write_text("{}")
    refused(folder, f"{folder / 'tokenizer.json'}: not a tokenizer")


def test_a_name_whose_tokenizer_is_in_a_hub_needs_a_folder(made):
    name = f"open_clip:ViT-B-16-SigLIP:{made / 'plain.pt'}"
    refused(name, "timm/ViT-B-16-SigLIP", "swan downloads nothing", "open_clip:FOLDER")


def test_a_number_beyond_the_table_is_refused():
    with pytest.raises(SwanError, match="the number 49407, but the model has 100 tokens"):
        ClipTokenizer(words=100).encode("a river")


@pytest.mark.parametrize(
    "plain",
    [
        {},
        {"clip": {}},
        {"clip": ClipTokenizer().to_plain()["clip"] | {"surprise": 1}},
        {"clip": ClipTokenizer().to_plain()["clip"] | {"words": "many"}},
        {"clip": ClipTokenizer().to_plain()["clip"] | {"clean": "code"}},
        {"clip": ClipTokenizer().to_plain()["clip"] | {"special": 7}},
    ],
)
def test_a_damaged_tokenizer_of_a_checkpoint_is_refused(plain):
    with pytest.raises(SwanError, match="tokenizer"):
        ClipTokenizer.from_plain(plain)
