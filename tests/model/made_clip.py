"""Small open_clip models with random weights, saved in each form that swan reads.

    cfg = model_cfg()
    model = make_model(cfg)
    save_weights(folder / "weights.pt", model)
    save_folder(folder / "model", model, cfg)

A name for `open_clip:NAME:FILE` exists in this process only, after `register(folder)`.
"""

import copy
import json

import pytest
import torch

open_clip = pytest.importorskip("open_clip", reason="the extra `clip` is not installed")

NAME = "made-clip"  # `register` makes it, and the same with -quickgelu
FORMS = ("plain", "module", "half", "safetensors")
VISION = {
    "vit": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
    "timm": {"image_size": 32, "timm_model_name": "test_efficientnet", "timm_pool": "avg"},
}
TEXT = {"context_length": 12, "width": 16, "heads": 2, "layers": 3}  # with CLIP's 49,408 byte pairs


def model_cfg(vision="vit", text=None, **changes):
    """open_clip's configuration of a small model; `vision` is a key of `VISION`."""
    return {
        "embed_dim": 16,
        "vision_cfg": dict(VISION[vision]),
        "text_cfg": TEXT | {"vocab_size": 49408} | (text or {}),
        **changes,
    }


def make_model(cfg, seed=0):
    """open_clip's own model of a configuration, in evaluation mode; all its weights are random."""
    cfg = copy.deepcopy(cfg)
    kind = open_clip.CustomTextCLIP if cfg.pop("custom_text", False) else open_clip.CLIP
    model = kind(**cfg).eval()
    draw = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=draw)
        elif value.is_floating_point() and not name.startswith("logit_"):
            value.add_(torch.empty_like(value).normal_(std=0.1, generator=draw))
    return model


def save_weights(path, model, form="plain"):
    """Writes the weights of a model in one of `FORMS`; half is float16 under a key, as OpenAI's are."""
    weights = model.state_dict()
    if form == "safetensors":
        from safetensors.torch import save_file

        save_file({name: value.contiguous() for name, value in weights.items()}, path)
    elif form == "module":
        under = {f"module.{name}": value for name, value in weights.items()}
        torch.save({"epoch": 3, "name": "made", "state_dict": under}, path)
    elif form == "half":
        halves = {
            name: value.half() if value.is_floating_point() else value for name, value in weights.items()
        }
        torch.save({"state_dict": halves}, path)
    else:
        torch.save(weights, path)
    return path


def save_folder(folder, model, cfg, preprocess_cfg=None, weights="open_clip_model.safetensors"):
    """Writes a folder that open_clip's `local-dir:` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"model_cfg": cfg, "preprocess_cfg": preprocess_cfg or {}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    save_weights(folder / weights, model, "safetensors" if weights.endswith(".safetensors") else "plain")
    return folder


def register(folder, cfg=None, name=NAME):
    """Makes a configuration known to open_clip under a name, and with QuickGELU; returns the name."""
    folder.mkdir(parents=True, exist_ok=True)
    cfg = cfg or model_cfg()
    (folder / f"{name}.json").write_text(json.dumps(cfg))
    (folder / f"{name}-quickgelu.json").write_text(json.dumps(cfg | {"quick_gelu": True}))
    open_clip.add_model_config(folder)
    return name


def save_tokenizer(folder, **said):
    """Writes a Hugging Face tokenizer of eleven word pieces, all in lower case, that saves padding to 5.

    Args:
        folder: for `tokenizer.json` and `tokenizer_config.json`.
        said: more of the latter.
    """
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "many", "plane", "##s", "near", "a", "river", "."]
    number = {piece: place for place, piece in enumerate(pieces)}

    def special(piece):
        return {"SpecialToken": {"id": piece, "type_id": 0}}

    single = [special("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, special("[SEP]")]
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": {
            "strategy": {"Fixed": 5},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
        "added_tokens": [
            {"id": number[piece], "content": piece, "special": True}
            | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            for piece in pieces[:4]
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                piece: {"id": piece, "ids": [number[piece]], "tokens": [piece]}
                for piece in ("[CLS]", "[SEP]")
            },
        },
        "decoder": None,
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": number,
        },
    }
    said = {"tokenizer_class": "BertTokenizer", "pad_token": "[PAD]", "sep_token": "[SEP]"} | said
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
