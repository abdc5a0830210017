"""The images that a checkpoint was trained on, so that a test on some of them is noticed.

Pictures are compared by two hashes (see `images`): of their pixels, and of their look, which another size or
JPEG compression hardly changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

# Of 64 bits. 99 % of the copies of RSICD's and UCM's images at other sizes and as JPEG are so close, and one
# in 2,176 images that are no copies.
ALIKE = 4
NEW, LIKE, SAME = 0, 1, 2  # what `SeenImages.marks` says of an image
BLOCK = 64  # images compared at a time
BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)


@dataclass(frozen=True)
class SeenImages:
    """Hashes of different training images.

    digest: uint8 (n, 16), `pixel_digest` of each.
    look: uint64 (m,), `look_hash` of each that has one.
    """

    digest: np.ndarray
    look: np.ndarray

    @classmethod
    def of(cls, digests: np.ndarray, looks: np.ndarray) -> SeenImages:
        """Those of some images.

        Args:
            digests: object (N,) of str, 32 hexadecimal characters each.
            looks: uint64 (N,), 0 where there is none.
        """
        return cls(np.unique(_bytes_of(digests), axis=0), np.unique(looks[looks > 0]))

    def joined(self, other: SeenImages) -> SeenImages:
        """The images of both."""
        digest = np.unique(np.concatenate([self.digest, other.digest]), axis=0)
        return SeenImages(digest, np.union1d(self.look, other.look))

    def marks(self, digests: np.ndarray, looks: np.ndarray) -> np.ndarray:
        """uint8 (N,): for each image `SAME` if its pixels were seen, else `LIKE` if its look was, else `NEW`.

        Args:
            digests: as in `of`.
            looks: as in `of`.
        """
        marks = np.full(len(digests), NEW, np.uint8)
        for start in range(0, len(looks), BLOCK):
            own = looks[start : start + BLOCK, None]
            near = (_count_bits(own ^ self.look) <= ALIKE).any(axis=1) & (own[:, 0] > 0)
            marks[start : start + BLOCK][near] = LIKE
        known = {row.tobytes() for row in self.digest}
        marks[[row.tobytes() in known for row in _bytes_of(digests)]] = SAME
        return marks

    def to_plain(self) -> dict[str, torch.Tensor]:
        """Tensors, for a checkpoint."""
        return {"digest": torch.from_numpy(self.digest), "look": torch.from_numpy(self.look.view(np.int64))}

    @classmethod
    def from_plain(cls, plain: object) -> SeenImages:
        """The inverse of `to_plain`.

        Raises:
            KeyError, TypeError: it is something else.
        """
        digest, look = plain["digest"].numpy(), plain["look"].numpy()
        if (digest.dtype, look.dtype, digest.shape[1:], look.ndim) != (np.uint8, np.int64, (16,), 1):
            raise TypeError(
                f"its seen images are {digest.dtype} {digest.shape} and {look.dtype} {look.shape}"
            )
        return cls(digest, look.view(np.uint64))


def _bytes_of(digests: np.ndarray) -> np.ndarray:
    """uint8 (N, 16) from hexadecimal digests."""
    return np.frombuffer(bytes.fromhex("".join(digests)), np.uint8).reshape(-1, 16)


def _count_bits(values: np.ndarray) -> np.ndarray:
    """uint8 (n, m): the number of bits that are set in each value, from uint64 (n, m)."""
    of_bytes = BITS[np.ascontiguousarray(values).view(np.uint8)]
    return of_bytes.reshape(*values.shape, 8).sum(axis=2, dtype=np.uint8)
