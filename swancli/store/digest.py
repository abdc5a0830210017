"""The one content digest by which data sets, folders, features and embeddings are compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any


def content_digest(rows: Iterable[Any]) -> str:
    """A hash of rows in their order: 32 hexadecimal characters.

    Args:
        rows: each of plain values that JSON can hold.
    """
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()
