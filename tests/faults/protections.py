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
        'temporary = path.with_name(f".{path.name}.{host}.{os.getpid()}.tmp")',
        "temporary = path",
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
        "_sync(path.parent)",
        "pass",
        "tests/store/test_atomic.py::test_file_is_on_the_disk_before_its_name_and_its_name_before_the_end",
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
        "nothing in a checkpoint is called",
        "store/torch_file.py",
        'map_location="cpu", weights_only=True',
        'map_location="cpu", weights_only=False',
        "tests/model/test_checkpoint.py::test_calls_in_a_file_are_not_made",
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
        "images.py",
        "os.path.realpath(path)",
        "os.path.abspath(path)",
        "tests/test_images.py::test_link_inside_a_folder_is_read_and_one_that_leads_out_is_not",
    ),
    Protection(
        "a folder beside another one is outside of it",
        "images.py",
        "not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))",
        "not os.path.realpath(path).startswith(os.path.realpath(folder))",
        "tests/test_images.py::test_folder_beside_one_whose_name_begins_the_same_is_outside_of_it",
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
