"""From image files, and the samples of scenes, to RGB pixels.

    files (bytes) -> decode, tiff, headers (samples, and what the file says) -> rule, scale (RGB) -> pixels

Scenes come to the same rule by way of `scene_image/raster.py`.
"""

from swancli.images.decode import (
    FORMATS,
    MOST_SAMPLES,
    decode_image,
    image_size,
    pixels_of,
    scale_values,
)
from swancli.images.files import (
    LEADS_OUT,
    LEADS_OUT_HINT,
    SUFFIXES,
    check_bytes,
    leads_out,
    read_bytes,
    read_inside,
)
from swancli.images.notes import Notes
from swancli.images.pixels import look_hash, pixel_digest, resize_image
from swancli.images.rule import AS_SAID, Rendering, parse_rendering

__all__ = [
    "AS_SAID",
    "FORMATS",
    "LEADS_OUT",
    "LEADS_OUT_HINT",
    "MOST_SAMPLES",
    "SUFFIXES",
    "Notes",
    "Rendering",
    "check_bytes",
    "decode_image",
    "image_size",
    "leads_out",
    "look_hash",
    "parse_rendering",
    "pixel_digest",
    "pixels_of",
    "read_bytes",
    "read_inside",
    "resize_image",
    "scale_values",
]
