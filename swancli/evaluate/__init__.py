"""From embeddings to recall: `swan eval`."""

from swancli.errors import SwanError, foreign_hint, import_error

RECALL_AT = (1, 5, 10)  # the K of mR
DIRECTIONS = {"i2t": "image_to_text", "t2i": "text_to_image"}  # in records and tables -> in Python


def require_plots(option: str) -> None:
    """Checks that the figures of an option can be drawn, before anything slow starts.

    Raises:
        SwanError: the extra `plots` is not installed, or does not work.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise import_error(error, option, "plots") from error
    except ValueError as error:  # a setting of matplotlib that the environment makes
        reason = str(error).partition(";")[0]
        hint = foreign_hint("MPLBACKEND", "MATPLOTLIBRC") or "correct matplotlibrc"
        raise SwanError(f"{option} needs matplotlib, which refuses its settings ({reason})", hint) from error
