"""VRT files: mosaics of other files, checked before GDAL opens them.

A VRT may make GDAL open any file, ask any address or run code. Those of gdalbuildvrt consist of few elements,
and only these are read, over files in the folder of the VRT.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from swancli.errors import ImageError
from swancli.images import leads_out

LARGEST = 2**26  # bytes of a VRT file
KNOWN = {
    *("VRTDataset", "SRS", "GeoTransform", "Metadata", "MDI", "VRTRasterBand", "NoDataValue", "ColorInterp"),
    *("ColorTable", "Entry", "Description", "SimpleSource", "ComplexSource", "SourceFilename", "SourceBand"),
    *("SourceProperties", "SrcRect", "DstRect", "NODATA", "MaskBand", "UnitType", "Offset", "Scale"),
    *(
        "ScaleOffset",
        "ScaleRatio",
        "UseMaskBand",
        "HideNoDataValue",
        "CategoryNames",
        "Category",
        "BlockXSize",
    ),
    *("BlockYSize", "Histograms", "HistItem", "HistMin", "HistMax", "BucketCount", "IncludeOutOfRange"),
    *("Approximate", "HistCounts", "ColorTableComponent"),
}
HINT = "make it in the folder of its files: gdalbuildvrt mosaic.vrt *.tif"


def check_sources(path: Path) -> list[Path]:
    """The files that a VRT refers to.

    Raises:
        ImageError: it is not a mosaic of files in its own folder.
    """
    text = path.read_bytes()[: LARGEST + 1]
    try:
        if len(text) > LARGEST or b"<!" in text:
            raise ElementTree.ParseError("too large, or with declarations")
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ImageError(f"{path}: not an image that GDAL reads (not a VRT: {error})") from error
    sources = []
    for element in root.iter():
        if element.tag not in KNOWN or "subClass" in element.attrib or element.get("domain") == "OVERVIEWS":
            raise ImageError(f"{path}: holds {element.tag}, which is not part of a plain mosaic", HINT)
        if element.tag == "SourceFilename":
            beside = element.get("relativeToVRT") == "1"
            source = path.parent / (element.text or "") if beside else Path(element.text or "")
            if not source.is_file() or leads_out(source, path.parent):
                raise ImageError(f"{path}: refers to {element.text}, which is not a file in its folder", HINT)
            sources.append(source)
    return list(dict.fromkeys(sources))
