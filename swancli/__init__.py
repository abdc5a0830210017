"""swancli: remote-sensing image-text retrieval with SWAN, from a downloaded data set to a ranked answer.

From Python, each name is loaded when it is first used, so `import swancli` costs no torch:

    encoder = swancli.Encoder("shipped")            # images and captions -> embeddings
    search = swancli.open_search("embeddings.h5")   # search("two tennis courts") -> a pandas table
    swancli.recall(similarity, image_of_caption)    # the table of `swan eval`
    swancli.load_checkpoint("shipped")              # model, settings and vocabulary
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swancli.evaluate.metrics import recall
    from swancli.model.checkpoint import load_checkpoint
    from swancli.model.encoder import Encoder
    from swancli.query.search import open_search

__version__ = "0.1.0"
__all__ = ["Encoder", "load_checkpoint", "open_search", "recall"]

_MODULES = {
    "Encoder": "swancli.model.encoder",
    "load_checkpoint": "swancli.model.checkpoint",
    "open_search": "swancli.query.search",
    "recall": "swancli.evaluate.metrics",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'swancli' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
