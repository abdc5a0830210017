"""Models of open_clip, such as RemoteCLIP and GeoRSCLIP, from local files.

    swan eval --checkpoint open_clip:ViT-B-32-quickgelu:RemoteCLIP-ViT-B-32.pt --dataset rsicd

`read_open_clip` reads weights, preprocessing and tokenizer; `OpenClip` is the model. Nothing is downloaded,
and nothing in the files can run code.
"""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch
import torch.nn.functional as F
from torch import nn

from swancli.errors import StoreError, SwanError, import_error
from swancli.model.clip_tokenizer import LONGEST, ClipTokenizer, read_clip_tokenizer
from swancli.model.settings import OPEN_CLIP, ModelSettings
from swancli.model.weights import misfit, not_finite, read_weights, shapes_of
from swancli.store.text import read_json

PREFIX = "open_clip:"
FORMS = "give open_clip:NAME:FILE, or open_clip:FOLDER for a folder with open_clip_config.json"
CONFIG = "open_clip_config.json"
# The files that open_clip looks for in a folder, in its order; and the last one.
WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
    "open_clip_pytorch_model.pt",
)
WEIGHT_SUFFIXES = {Path(name).suffix for name in WEIGHTS}
WEIGHTS_HINT = "give a state dict, as it is or under `state_dict`, or safetensors"
FIT = {"shortest": "crop", "squash": "squash"}  # resize_mode of open_clip -> fit
# Far beyond any model: a damaged number would run for ever, or fill the memory.
MOST = {"layers": 1000, "heads": 1000, "context_length": LONGEST}
# Recorded by OpenAI beside the weights; the shapes of the weights say the same.
SIZES = ("input_resolution", "context_length", "vocab_size")

# Files and folders, in lower case, whose weights need QuickGELU, and why.
QUICK_GELU = {
    # Trained with open_clip up to 2.28 from the tag openai, which always meant QuickGELU then.
    "remoteclip*": "RemoteCLIP starts from OpenAI's weights",
    # GeoRSCLIP's B-32 and L-14 start from OpenAI's weights, its H-14 from LAION's.
    "rs5m_vit-b-32*": "GeoRSCLIP's B-32 starts from OpenAI's weights",
    "rs5m_vit-l-14*": "GeoRSCLIP's L-14 starts from OpenAI's weights",
    # Trained with force_quick_gelu; SkyCLIP's B-32 without. Its file is called epoch_20.pt, its folder so.
    "skyclip*l14*": "SkyCLIP's L-14 is trained with it",
    "skyclip*l-14*": "SkyCLIP's L-14 is trained with it",
    # Trained with --force-quick-gelu.
    "farslip*": "FarSLIP is trained with it",
    # All of OpenAI's models have it.
    "*openai*": "OpenAI's models have it",
}


@dataclass(frozen=True)
class OpenClipFile:
    """An open_clip model that was read from files.

    path: of the weights.
    settings: of the model.
    weights: by their names in `OpenClip.state_dict`, on the CPU, of the types there.
    tokenizer: of the model.
    warnings: what the user should know, a sentence each.
    """

    path: Path
    settings: ModelSettings
    weights: dict[str, torch.Tensor]
    tokenizer: ClipTokenizer
    warnings: tuple[str, ...]


# ---------------------------------------------------------------------------------------------------------
# the model


class OpenClip(nn.Module):
    """Both towers of an open_clip model.

    Build it on a real device: some towers have buffers that are not in the state dict. `without_random_start`
    saves drawing weights that are loaded afterwards.

    Args:
        settings: `open_clip` is the configuration of the model, as open_clip names it.
        captions_only: leave out the image tower, which a text query does not need.

    Attributes:
        settings: as given.

    Raises:
        SwanError: open_clip is not installed, cannot build the model, or cannot freeze what is asked.
    """

    def __init__(self, settings: ModelSettings, captions_only: bool = False) -> None:
        super().__init__()
        self.settings = settings
        self.clip = _network(settings.open_clip, captions_only)
        if settings.freeze_stages:
            raise SwanError(
                f"--freeze-stages {settings.freeze_stages}: the image tower of open_clip is not in stages",
                "leave it out, or freeze the whole tower: --freeze",
            )
        for name, weight in self.clip.named_parameters():
            if name.startswith("logit_"):
                weight.requires_grad_(False)  # our loss works on cosines
        if settings.frozen and not captions_only:
            self.clip.visual.requires_grad_(False)
        self._freeze_text(settings.freeze_text)

    def _freeze_text(self, count: int) -> None:
        text = getattr(self.clip, "text", self.clip)
        layers = text.transformer.resblocks
        if count > len(layers):
            problem = f"--freeze-text {count}: the text transformer has {len(layers)} layers"
            raise SwanError(problem, f"give 0 to {len(layers)}")
        if not count:
            return
        first = [text.token_embedding, text.positional_embedding, getattr(text, "cls_emb", None)]
        for part in (*first, *layers[:count]):
            if part is not None:
                part.requires_grad_(False)

    def train(self, mode: bool = True) -> OpenClip:
        """As in torch, but a frozen image tower stays in evaluation mode, batch norms included."""
        super().train(mode)
        if self.settings.frozen and hasattr(self.clip, "visual"):
            self.clip.visual.eval()
        return self

    def compile_images(self, images: int) -> None:
        """Refuses: swan compiles its own backbones only."""
        raise SwanError("--compile: not for models of open_clip", "leave --compile out")

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that are trained: of the image tower ("backbone"), the text tower, and no heads."""
        parts: dict[str, list[nn.Parameter]] = {"backbone": [], "text": [], "heads": []}
        for name, weight in self.clip.named_parameters():
            if weight.requires_grad:
                parts["backbone" if name.startswith("visual.") else "text"].append(weight)
        return parts

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """L2-normalised image embeddings, float (B, D).

        Args:
            pixels: float (B, 3, S, S), normalised as `settings.preprocessing` says.
        """
        return F.normalize(self.clip.encode_image(pixels).float(), dim=-1)

    def encode_captions(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """L2-normalised caption embeddings, float (B, D).

        Args:
            tokens: int64 (B, L), as `ClipTokenizer` gives them, padding included.
            lengths: int64 (B,); not used, since open_clip's towers find the end of a text themselves.
        """
        return F.normalize(self.clip.encode_text(tokens).float(), dim=-1)


def _library() -> ModuleType:
    """The package open_clip, imported when it is needed: that takes a second or two."""
    try:
        import open_clip
    except ImportError as error:
        raise import_error(error, "a model of open_clip", "clip") from error
    return open_clip


def _network(config: object, captions_only: bool = False) -> nn.Module:
    """open_clip's own model of a configuration, with random weights.

    Raises:
        SwanError: it is of a kind that has no image and text embeddings, needs a download, or is faulty.
    """
    _check_config(config)
    library = _library()
    values = deepcopy(dict(config))
    kind = library.CustomTextCLIP if values.pop("custom_text", False) else library.CLIP
    if values["vision_cfg"].get("timm_model_name"):
        values["vision_cfg"]["timm_model_pretrained"] = False  # would be downloaded
    if captions_only:  # built, since open_clip cannot leave it out, as small as it can be
        values["vision_cfg"] = {"layers": 1, "width": 64, "patch_size": 16, "image_size": 16}
    try:
        network = kind(**values)
    except Exception as error:  # whatever a wrong value leads to there
        reason = str(error).split("\n")[0] or type(error).__name__
        problem = f"configuration of the model: open_clip cannot build it ({reason})"
        raise SwanError(problem, "take another model") from error
    if captions_only:
        del network.visual
    return network


def _check_config(config: object) -> None:
    problem = _config_problem(config)
    if problem:
        raise SwanError(f"configuration of the model: {problem}", "take another model")


def _config_problem(config: object) -> str:
    """Why swan takes no model of a configuration, naming the key; "" if it does."""
    if not isinstance(config, Mapping):
        return "not an object"
    for key, kind in {"embed_dim": int, "vision_cfg": Mapping, "text_cfg": Mapping}.items():
        if not isinstance(config.get(key), kind):
            return f"no key {key}" if key not in config else f"{key} is {type(config[key]).__name__}"
    vision, text = config["vision_cfg"], config["text_cfg"]
    for key, tower in ((key, tower) for key in MOST for tower in (vision, text) if key in tower):
        values = tower[key] if isinstance(tower[key], (list, tuple)) else [tower[key]]
        if not all(type(value) is int and value <= MOST[key] for value in values):
            return f"{key} {tower[key]!r}: not a whole number up to {MOST[key]}"
    if "multimodal_cfg" in config:
        return "multimodal_cfg is for a model that writes captions (CoCa), which swan does not read"
    if text.get("hf_model_name"):
        return f"hf_model_name {text['hf_model_name']}: a text tower from a hub, which swan does not read"
    if vision.get("output_tokens") or text.get("output_tokens"):
        return "output_tokens: a tower that gives more than embeddings, which swan does not read"
    if not isinstance(text.get("tokenizer_kwargs") or {}, Mapping):
        return "tokenizer_kwargs is not an object"
    if ":" in str(vision.get("timm_model_name")):
        return f"timm_model_name {vision['timm_model_name']}: would be downloaded"
    size = vision.get("image_size", 224)
    if isinstance(size, (list, tuple)) and len(size) == 2 and size[0] == size[1]:
        size = size[0]
    if type(size) is not int:
        return f"image_size {size}: swan needs square images"
    return ""


# ---------------------------------------------------------------------------------------------------------
# the files


def is_open_clip(name: str | os.PathLike[str]) -> bool:
    """Whether something names an open_clip model: `open_clip:...`, or a folder with its configuration."""
    text = os.fspath(name)
    return text.startswith(PREFIX) or bool(text and (Path(text) / CONFIG).is_file())


def read_open_clip(name: str | os.PathLike[str]) -> OpenClipFile:
    """Reads an open_clip model: weights, preprocessing and tokenizer.

    Args:
        name: `open_clip:NAME:FILE` with the name of a model in open_clip and a file of weights;
            `open_clip:FOLDER` or the folder alone, which has `open_clip_config.json` and the weights.

    Raises:
        StoreError: a file is absent or damaged, or asks for code.
        SwanError: open_clip is not installed or has no such name, the weights do not fit, or the model is of
            a kind that swan does not read.
    """
    rest = os.fspath(name).removeprefix(PREFIX)
    model, colon, file = rest.partition(":")
    if rest and (Path(rest).is_dir() or not colon):
        return _read_folder(Path(rest))
    if not (model and file):
        raise SwanError(f"{os.fspath(name)!r}: names no model or no file", FORMS)
    return _read_file(model.replace("/", "-"), Path(file))  # ViT-B/32 is ViT-B-32, as in open_clip


def _read_file(model: str, path: Path) -> OpenClipFile:
    """Weights alone: what they do not say is open_clip's default, as in open_clip."""
    library = _library()
    config = library.get_model_config(model) if ":" not in model else None
    if config is None:
        near = difflib.get_close_matches(model, library.list_models(), 3, 0.4)
        hint = f"do you mean {' or '.join(near)}?" if near else FORMS
        raise SwanError(f"open_clip:{model}: open_clip has no model of this name", hint)
    if not path.is_file():
        raise StoreError(
            f"{path}: no such file", "give a local file; swan downloads none of open_clip's tags"
        )
    notes = [_other_preprocessing(model), _wants_quick_gelu(path, config, model)]
    return _read(path, model, config, {}, None, notes)


def _read_folder(folder: Path) -> OpenClipFile:
    """A folder as open_clip's `local-dir:` reads it."""
    if not folder.is_dir():
        raise StoreError(f"{folder}: no such folder", FORMS)
    file = folder / CONFIG
    if not file.is_file():
        raise StoreError(f"{folder}: has no {CONFIG}", FORMS)
    content = read_json(file, "copy it again")
    if not (isinstance(content, dict) and isinstance(content.get("model_cfg"), dict)):
        raise SwanError(f"{file}: no key model_cfg", "give a folder that open_clip wrote")
    preprocessing = content.get("preprocess_cfg") or {}
    if not isinstance(preprocessing, dict):
        raise SwanError(f"{file}: preprocess_cfg is not an object", "give a folder that open_clip wrote")
    path, config = weights_in(folder), content["model_cfg"]
    notes = [_wants_quick_gelu(path, config, "")]
    return _read(path, folder.resolve().name, config, preprocessing, folder, notes)


def weights_in(folder: Path) -> Path:
    """The file of weights in a folder that open_clip would take.

    Raises:
        StoreError: there is none, or there are several.
    """
    found = sorted(path for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES and path.is_file())
    known = sorted(
        (path for path in found if path.name in WEIGHTS), key=lambda path: WEIGHTS.index(path.name)
    )
    if not known and len(found) != 1:
        several = f"several files of weights ({', '.join(path.name for path in found)})"
        problem = f"{folder}: {several if found else 'no weights'}"
        raise StoreError(problem, f"call the right file {WEIGHTS[0]}, or {WEIGHTS[2]}")
    return (known or found)[0]


def _read(
    path: Path,
    name: str,
    config: dict[str, Any],
    preprocessing: dict[str, Any],
    folder: Path | None,
    notes: list[str],
) -> OpenClipFile:
    """The model of a configuration with the weights of a file.

    Args:
        path: of the weights.
        name: of the model.
        config: open_clip's `model_cfg`.
        preprocessing: open_clip's `preprocess_cfg`, or what is known of it.
        folder: with the tokenizer, if the model has its own.
        notes: the warnings; "" for none.
    """
    where = folder / CONFIG if folder else f"open_clip:{name}"
    try:
        _check_config(config)
    except SwanError as error:
        raise SwanError(f"{where}: {error.problem}", error.hint) from error
    tokenizer = read_clip_tokenizer(config["text_cfg"], folder, str(where))
    try:
        with torch.device("meta"):  # only its names, shapes and types are used
            own = _network(config).state_dict()
        shown = _preprocessing(preprocessing, config["vision_cfg"])
        settings = ModelSettings(
            words=len(tokenizer),
            backbone=OPEN_CLIP + name,
            embed_dim=config["embed_dim"],
            open_clip=config,
            **shown,
        )
    except SwanError as error:
        raise SwanError(f"{where}: {error.problem}", error.hint) from error
    if _is_torchscript(path):
        raise StoreError(f"{path}: a TorchScript archive, which is code", _conversion(path))
    weights = _renamed(read_weights(path, WEIGHTS_HINT), own)
    problem = misfit(shapes_of(own), shapes_of(weights))
    if problem:
        hint = "the file belongs to another model, or is incomplete: check the name"
        raise SwanError(f"{path}: does not fit {name}: {problem}", hint)
    problem = not_finite(weights)
    if problem:
        raise SwanError(f"{path}: {problem}", "fetch it again, or take another file")
    ours = {f"clip.{key}": weights[key].to(value.dtype) for key, value in own.items()}
    return OpenClipFile(path, settings, ours, tokenizer, tuple(note for note in notes if note))


def _preprocessing(given: dict[str, Any], vision: Mapping[str, Any]) -> dict[str, Any]:
    """Size, mean, deviation, interpolation and fit, for `ModelSettings`; by default those of open_clip.

    open_clip takes the size from the model, whatever the preprocessing says.
    """
    library = _library()
    values = {
        "mode": "RGB",
        "mean": library.OPENAI_DATASET_MEAN,
        "std": library.OPENAI_DATASET_STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    values |= {key: value for key, value in given.items() if key in values and value is not None}
    size = vision.get("image_size", 224)
    known = {
        "mode": ("RGB",),
        "interpolation": ("bilinear", "bicubic", "random"),  # random is for training; else bicubic
        "resize_mode": tuple(FIT),
    }
    for key, choices in known.items():
        if values[key] not in choices:
            problem = f"preprocess_cfg: {key} {values[key]!r} is not {' or '.join(choices)}"
            raise SwanError(problem, "take another model")
    shown = {}
    for key in ("mean", "std"):
        each = values[key] if isinstance(values[key], (list, tuple)) else [values[key]] * 3
        numbers = all(isinstance(value, (int, float)) for value in each)
        if len(each) != 3 or not numbers or (key == "std" and min(each) <= 0):
            raise SwanError(f"preprocess_cfg: {key} {values[key]!r} is not three numbers", "copy it again")
        shown[key] = tuple(float(value) for value in each)
    bilinear = values["interpolation"] == "bilinear"
    return shown | {
        "image_size": size if isinstance(size, int) else size[0],
        "interpolation": "bilinear" if bilinear else "bicubic",
        "fit": FIT[values["resize_mode"]],
    }


def _renamed(weights: dict[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights under the model's names, with what open_clip settles when it loads; nothing is lost."""
    weights = {key: value for key, value in weights.items() if key in own or key not in SIZES}
    if "text.positional_embedding" in own:  # a text tower of its own, which older files do not have
        weights = _library().model.convert_to_custom_text_state_dict(weights)
    if "logit_bias" in own and "logit_scale" in weights:
        weights.setdefault("logit_bias", torch.zeros_like(weights["logit_scale"]))
    for key in {"logit_scale", "logit_bias"} & own.keys() & weights.keys():
        if weights[key].numel() == 1:  # a number, or a list of one
            weights[key] = weights[key].reshape(own[key].shape)
    return weights


def _is_torchscript(path: Path) -> bool:
    try:
        if not is_zipfile(path):
            return False
        with ZipFile(path) as archive:
            names = archive.namelist()
    except (BadZipFile, OSError):
        return False
    return any(name.endswith("/constants.pkl") or "/code/" in name for name in names)


def _conversion(path: Path) -> str:
    """How to make a state dict of one of OpenAI's archives."""
    weights = "open_clip.load_openai_model(sys.argv[1], 'fp32', 'cpu').state_dict()"
    code = f"import open_clip, sys, torch; torch.save({weights}, 'weights.pt')"
    return (
        f'if you trust it, convert it: python -c "{code}" {shlex.quote(str(path))}\n'
        "then give open_clip:NAME:weights.pt with a NAME that ends in -quickgelu"
    )


def _wants_quick_gelu(path: Path, config: Mapping[str, Any], model: str) -> str:
    """A warning if a file is known to need QuickGELU and its configuration does not have it; "" if not.

    Args:
        path: of the weights.
        config: of the model.
        model: the name in open_clip that decided the configuration; "" for a folder's own.
    """
    if config.get("quick_gelu"):
        return ""
    names = (path.name.lower(), path.absolute().parent.name.lower())
    pattern = next((known for known in QUICK_GELU if any(fnmatch(name, known) for name in names)), "")
    if not pattern:
        return ""
    quick = f"{model}-quickgelu"
    advice = f'put "quick_gelu": true into {CONFIG}' if not model else f"give open_clip:{quick}:{path}"
    if model and quick not in _library().list_models():
        advice = "give a name that ends in -quickgelu"
    what = f"{model} computes" if model else f"{CONFIG} asks for"
    return f"{path}: needs QuickGELU ({QUICK_GELU[pattern]}), but {what} GELU, with other results; {advice}"


def _other_preprocessing(model: str) -> str:
    """A warning if no weights that open_clip knows for a name use its default preprocessing; "" if some do.

    A file of weights does not say how its images were prepared; open_clip then takes its defaults.
    """
    library = _library()
    usual = _preprocessing({}, {})
    tags = library.list_pretrained_tags_by_model(model)
    known = [_preprocessing(library.get_pretrained_cfg(model, tag), {}) for tag in tags]
    if not known or usual in known:
        return ""
    changes = [f"{key} {value}" for key, value in known[0].items() if value != usual[key]]
    return (
        f"open_clip:{model}: images are prepared by open_clip's defaults, but its published weights need "
        f"{', '.join(changes)}; put the file into a folder with {CONFIG} that says so"
    )
