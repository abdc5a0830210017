"""Each protection: the code that protects, and the test that fails without it.

    python tests/faults/protections.py          # removes each from a copy of the package, and runs its test
    python tests/faults/protections.py link     # those whose name contains a word

It ends with exit code 1 if a test fails although nothing was removed, or passes although its protection was.
`test_protections.py` checks that the code and the test of each exist.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Protection:
    """A protection and its test.

    name: what it does.
    file: of the package.
    code: a part of that file which occurs there once.
    without: what is in its place when the protection is removed.
    test: its file, and its name.
    """

    name: str
    file: str
    code: str
    without: str
    test: str

    def remove_from(self, root: Path) -> None:
        """Removes it from a copy of the project."""
        path = root / "swancli" / self.file
        path.write_text(path.read_text(encoding="utf-8").replace(self.code, self.without), encoding="utf-8")


PROTECTIONS = (
    Protection(
        "a temporary name, then a rename",
        "store/atomic.py",
        "temporary = place.with_name(",
        "temporary = place or (",
        "tests/store/test_atomic.py::test_file_appears_under_its_name_only_when_the_body_ends",
    ),
    Protection(
        "the file is synced before it gets its name",
        "store/atomic.py",
        "_sync(temporary)",
        "pass",
        "tests/store/test_atomic.py::test_file_is_on_the_disk_before_its_name_and_its_name_before_the_end",
    ),
    Protection(
        "the folder is synced after the file got its name",
        "store/atomic.py",
        "temporary.replace(place)\n        sync_folder(place.parent)",
        "temporary.replace(place)",
        "tests/store/test_atomic.py::test_file_is_on_the_disk_before_its_name_and_its_name_before_the_end",
    ),
    Protection(
        "temporary files follow no links",
        "store/atomic.py",
        "os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_FOLLOWING",
        "os.O_RDWR | os.O_CREAT",
        "tests/store/test_atomic.py"
        "::test_temporary_file_has_a_name_that_nobody_knows_before_and_follows_no_link",
    ),
    Protection(
        "an interrupt removes temporary files",
        "machine/interrupt.py",
        "path.unlink()",
        "pass",
        "tests/test_main.py::test_interrupted_write_of_hdf5_leaves_no_file",
    ),
    Protection(
        "HDF5 does not see a failed write, and the command does",
        "store/unfailing_file.py",
        "        finally:\n            target.check()",
        "        finally:\n            pass",
        "tests/store/test_unfailing_file.py"
        "::test_last_bytes_of_a_store_that_find_no_room_end_the_writing_too",
    ),
    Protection(
        "one process trains a run",
        "train/run.py",
        "closing_later.enter_context(only_writer(run.folder))",
        "pass",
        "tests/train/test_loop.py::test_run_that_another_process_trains_is_refused",
    ),
    Protection(
        "a lock is removed before it is released",
        "store/lock.py",
        "path.unlink(missing_ok=True)  # while it is locked: "
        "afterwards it may be the lock of another process\n"
        "        TEMPORARY.discard(path)\n        release()",
        "release()\n        path.unlink(missing_ok=True)\n        TEMPORARY.discard(path)",
        "tests/store/test_lock.py::test_lock_is_removed_before_it_is_released",
    ),
    Protection(
        "shards are joined under a lock",
        "embed/archive.py",
        "with folder.alone_in_archive():\n        if archive_identity(",
        "if True:\n        if archive_identity(",
        "tests/embed/test_archive.py::test_shards_are_joined_under_the_lock_of_all_of_them",
    ),
    Protection(
        "no two sources share a default output",
        "workspace.py",
        "next((place for place, owner in enumerate(owners) if not owner), len(paths) - 1)",
        "0",
        "tests/test_workspace.py::test_no_two_sources_share_a_file",
    ),
    Protection(
        "a server keeps the file that it opened",
        "store/vectors.py",
        'os.fdopen(os.dup(array.file.id.get_vfd_handle()), "rb")',
        'open(array.file.filename, "rb")',
        "tests/store/test_store.py::test_open_file_is_mapped_and_not_the_one_that_has_its_name_by_now",
    ),
    Protection(
        "nothing in a checkpoint is called",
        "store/torch_file.py",
        'map_location="cpu", weights_only=True',
        'map_location="cpu", weights_only=False',
        "tests/model/test_checkpoint.py::test_calls_in_a_file_are_not_made",
    ),
    Protection(
        "a model is planned without memory before it is made",
        "model/checkpoint.py",
        "_check_fit(shapes_of(planned.state_dict()), shapes_of(weights))",
        "pass",
        "tests/model/test_checkpoint.py::test_model_that_its_weights_do_not_fill_is_not_made",
    ),
    Protection(
        "no array of an HDF5 file is in another file",
        "store/hdf5.py",
        "elsewhere = _leading_elsewhere(file)",
        'elsewhere = ""',
        "tests/store/test_store.py::test_file_whose_pixels_lie_in_another_file_is_refused",
    ),
    Protection(
        "no path in a list leads out of its folder",
        "prepare/entries.py",
        '".." in path.parts',
        "False",
        "tests/prepare/test_sources.py::test_karpathy_errors_name_file_and_place",
    ),
    Protection(
        "no link leads out of its folder",
        "images/files.py",
        "os.path.realpath(path)",
        "os.path.abspath(path)",
        "tests/images/test_decode.py::test_link_inside_a_folder_is_read_and_one_that_leads_out_is_not",
    ),
    Protection(
        "a folder beside another one is outside of it",
        "images/files.py",
        "not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))",
        "not os.path.realpath(path).startswith(os.path.realpath(folder))",
        "tests/images/test_decode.py::test_folder_beside_one_whose_name_begins_the_same_is_outside_of_it",
    ),
    Protection(
        "no found folder of images leads out of its source",
        "prepare/sources.py",
        "if self.found and leads_out(self.images, self.images.parent):",
        "if False:",
        "tests/prepare/test_build.py"
        "::test_folder_of_images_that_is_a_link_to_elsewhere_is_taken_only_if_it_is_given",
    ),
    Protection(
        "no tar in a folder leads out of it",
        "embed/tars.py",
        "if folder and leads_out(Path(path), folder):",
        "if False:",
        "tests/embed/test_sources.py::test_tar_that_is_a_link_leading_out_is_refused_unless_it_is_named",
    ),
    Protection(
        "GDAL opens no file beside a scene",
        "scene_image/raster.py",
        '"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",',
        "",
        "tests/images/test_hostile.py::test_files_beside_a_scene_are_not_read",
    ),
    Protection(
        "GDAL opens no file beside a scene whose driver looks for them",
        "scene_image/raster.py",
        'CURIOUS = ("BMP", "NITF")',
        "CURIOUS = ()",
        "tests/images/test_hostile.py::test_files_beside_a_format_whose_driver_looks_for_them_are_not_read",
    ),
    Protection(
        "overviews elsewhere are refused",
        "scene_image/raster.py",
        "_check_overviews(file, path)\n                    self._describe",
        "self._describe",
        "tests/images/test_hostile.py::test_overviews_in_another_file_are_refused_before_they_are_opened",
    ),
    Protection(
        "strips are checked before they are decoded",
        "images/tiff.py",
        "if header.height > tall or header.width > wide or header.bands > max(bands, 4) or blobs > bands:",
        "if False:",
        "tests/images/test_hostile.py::test_strip_that_holds_more_than_the_tags_declare_is_not_decoded",
    ),
    Protection(
        "an index belongs to its embeddings",
        "query/index.py",
        "if not card.digest or card.digest != embeddings.digest:",
        "if False:",
        "tests/query/test_index.py::test_index_of_other_embeddings_is_refused",
    ),
    Protection(
        "an index without a digest belongs to none",
        "query/index.py",
        "if not card.digest or card.digest",
        "if card.digest",
        "tests/query/test_index.py::test_index_without_a_digest_belongs_to_no_embeddings",
    ),
    Protection(
        "an index has only parts that swan uses",
        "query/index.py",
        "_check_parts(faiss, index)\n    except",
        "pass\n    except",
        "tests/query/test_index.py::test_index_made_of_other_parts_is_refused",
    ),
    Protection(
        "no cell of a CSV is a formula",
        "commands/recall_tables.py",
        "value.lstrip()",
        "value",
        "tests/test_console.py::test_csv_holds_no_formulas_and_its_numbers_stay_numbers",
    ),
    Protection(
        "no line feed in a name begins a line",
        "console.py",
        "harmless(text).translate(str.maketrans(written))",
        "harmless(text)",
        "tests/test_console.py::test_line_feed_in_a_name_forges_no_line",
    ),
    Protection(
        "only embedded pictures are shown",
        "store/pictures.py",
        "if pixel_digest(pixels) != digest:",
        "if False:",
        "tests/query/test_page.py::test_picture_that_was_replaced_is_not_shown_and_one_saved_again_is",
    ),
    Protection(
        "no page of another site gets an answer",
        "query/serve.py",
        "elif _is_foreign(request):",
        "elif False:",
        "tests/commands/test_serve.py::test_pages_of_other_sites_get_nothing_and_links_lead_here",
    ),
    Protection(
        "slow uploads give way",
        "query/serve.py",
        "if time.monotonic() - began < UNDISTURBED:",
        "if True:",
        "tests/commands/test_serve.py::test_upload_that_stalls_with_much_gives_way",
    ),
    Protection(
        "padding is masked in the attention",
        "model/textual.py",
        "scores = scores.masked_fill(~move(mask, words.device)[:, None, None, :], -torch.inf)",
        "pass",
        "tests/model/test_textual.py::test_caption_embedding_does_not_depend_on_its_batch",
    ),
    Protection(
        "equal captions are not negatives of each other",
        "train/batches.py",
        "negative = np.stack([~np.isin(wording[captions], wordings_of[row]) for row in rows])",
        "negative = ~positive",
        "tests/train/test_batches.py::test_caption_in_the_words_of_an_images_own_is_no_negative_of_it",
    ),
)


def run(protection: Protection, root: Path) -> int:
    """The exit code of pytest for its test, in a copy of the project."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [*command, protection.test], cwd=root, env=environment, capture_output=True, check=False
    ).returncode


def outcome(protection: Protection) -> str:
    """What is wrong with a protection and its test; "" if the test passes with it and fails without it."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for part in ("swancli", "tests", "assets"):
            shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__", "*.pt"))
        shutil.copy(ROOT / "pyproject.toml", root)
        if code := run(protection, root):
            return f"its test fails although nothing was removed (pytest: {code})"
        protection.remove_from(root)
        code = run(protection, root)
    # 1: a test failed; others: none was found, or the code cannot be imported.
    return "" if code == 1 else f"its test does not fail without it (pytest: {code})"


def main() -> None:
    """Tries each protection, or those whose name contains a word."""
    wrong = 0
    for protection in PROTECTIONS:
        if all(word in protection.name for word in sys.argv[1:]):
            problem = outcome(protection)
            print(f"{protection.name}: {problem or 'its test fails without it'}", flush=True)
            wrong += bool(problem)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
