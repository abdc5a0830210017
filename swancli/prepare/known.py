"""Where the published data sets come from: the authors' page, the files, and the command that reads them."""

from __future__ import annotations

from dataclasses import dataclass

RSICD_PAGE = "https://github.com/201528014227051/RSICD_optimal"
FOR_RESEARCH = "for research; see the page"


@dataclass(frozen=True)
class KnownDataset:
    """A published data set.

    title: its name in print.
    page: address of the page that offers it.
    files: what its folder has to contain.
    licence: the terms of use.
    options: what `prepare` needs besides the folder; "" for nothing.
    """

    title: str
    page: str
    files: str
    licence: str = FOR_RESEARCH
    options: str = ""


KNOWN = {
    "rsicd": KnownDataset("RSICD", RSICD_PAGE, "dataset_rsicd.json and RSICD_images/"),
    "rsitmd": KnownDataset(
        "RSITMD",
        "https://github.com/xiaoyuan1996/AMFMN/tree/master/RSITMD",
        "dataset_RSITMD.json and images/",
        options=" --split random",  # its list names no validation images
    ),
    "ucm": KnownDataset("UCM-Captions", RSICD_PAGE, "dataset.json and imgs/ of UCM_captions"),
    "sydney": KnownDataset("Sydney-Captions", RSICD_PAGE, "dataset.json and imgs/ of Sydney_captions"),
    "nwpu": KnownDataset(
        "NWPU-Captions",
        "https://github.com/HaiyanHuang98/NWPU-Captions",
        "dataset_nwpu.json and NWPU_images/ (unpacked from NWPU_images.tar.gz)",
    ),
}


def where_to_get(name: str) -> str:
    """Where a published data set is, which files to take, and what to run; "" for any other name.

    Args:
        name: of the data set, as in `KNOWN`, in any case and also as in `ucm-captions` or `UCM_captions`.
    """
    known = KNOWN.get(name.lower().replace("_", "-").removesuffix("-captions"))
    if not known:
        return ""
    return (
        f"{known.title} is at {known.page} ({known.licence})\n"
        f"put {known.files} into one folder, then run\n"
        f"swan prepare --dataset {name} --source FOLDER{known.options}"
    )
