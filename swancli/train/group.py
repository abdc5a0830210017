"""Groups of runs: one run per fold, one per variant of an ablation, or both.

swan train --dataset ucm --folds 3 --run cv
swan train --dataset ucm --compare full,vmsf,sfgs,vmsf+sfgs --run ablation
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from swancli.errors import SwanError
from swancli.evaluate.report import GroupReport, GroupRow, Report
from swancli.machine.processes import ALONE, Processes
from swancli.model.settings import GRU, QUIRKS, ModelSettings
from swancli.prepare.splits import Fold
from swancli.store.hdf5 import CREATED_BY
from swancli.store.text import write_json
from swancli.train.config import PUBLISHED_PAIRS, RunConfig, config_from, model_settings, resumed_config
from swancli.train.loop import Watch
from swancli.train.run import existing_run_error, opened_start, train_run
from swancli.workspace import Group, Run, Workspace

FULL = "full"


@dataclass(frozen=True)
class Member:
    """One run of a group.

    run: its folder and files.
    label: names its variant; "" if there is only one.
    config: its configuration.
    """

    run: Run
    label: str
    config: RunConfig

    @property
    def fold(self) -> int:
        """Number of its fold, from 1; 0 without folds."""
        return self.config.fold.number if self.config.fold else 0


@dataclass(frozen=True)
class Runs:
    """The runs that one command trains.

    folder: of the run, or of its group.
    members: in the order of training.
    grouped: whether they belong to a group.
    """

    folder: Path
    members: tuple[Member, ...]
    grouped: bool


def plan_runs(
    workspace: Workspace,
    run: Run,
    config: RunConfig,
    *,
    variants: Sequence[str] = (),
    folds: int = 0,
    fold_rule: str = "random",
) -> Runs:
    """A new run, or a new group with one run per variant and fold.

    A group is written to `group.json` before its first run starts, if each of its variants can be trained.

    Args:
        workspace: where the data is.
        run: the run, or the run whose name the group gets.
        config: shared by all runs.
        variants: each is `full`, a variant's name, or the parts left out, as in `vmsf+sfgs`; empty for the
            configuration as it is.
        folds: number of folds per variant; 0 for the data set's own splits.
        fold_rule: "random" or "stratified".

    Raises:
        SwanError: a variant is unknown or given twice, one of the runs already exists, or a run of the group
            cannot begin.
    """
    group = Group(run.folder)
    if run.config.exists() or _begun(group):
        raise existing_run_error(run)
    group.file.unlink(missing_ok=True)  # a group that never began would hide this run
    if not (variants or folds):
        return Runs(run.folder, (Member(run, "", config),), grouped=False)
    config = replace(config, group=group.name)
    chosen = [_varied(config, variant) for variant in variants] or [("", config)]
    labels = [label for label, _ in chosen]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice:
        raise SwanError(f"--compare: {twice} is given twice", "name each variant once")
    draws = [Fold(number, folds, fold_rule, config.training.seed) for number in range(1, folds + 1)]
    members = []
    for label, varied in chosen:
        for fold in draws or [None]:
            words = [group.name, *label.replace("+", " ").split(), *([f"fold{fold.number}"] if fold else [])]
            member = Member(group.run("-".join(words)), label, replace(varied, fold=fold))
            if member.run.config.exists():
                raise existing_run_error(member.run)
            members.append(member)
    _check_start(workspace, replace(config, fold=members[0].config.fold))
    for label, varied in chosen:
        if varied != config:
            try:
                _check_start(workspace, replace(varied, fold=members[0].config.fold))
            except SwanError as error:
                hint = "add --text gru, or leave it out" if varied.variant == "published" else "leave it out"
                raise SwanError(f"--compare {label}: {error.problem}", f"{hint} of the list") from error
    _write_group(group, members)
    return Runs(group.folder, tuple(members), grouped=True)


def _check_start(workspace: Workspace, config: RunConfig) -> None:
    """Raises a SwanError if a run cannot begin: not after those before it have been trained for hours."""
    model_settings(config, words=1)
    with opened_start(workspace, config):
        pass


def _begun(group: Group) -> bool:
    return group.file.exists() and any(group.run(row["run"]).config.exists() for row in group.members())


def _varied(config: RunConfig, entry: str) -> tuple[str, RunConfig]:
    """The label and the configuration of one entry of `--compare`."""
    if entry == FULL:
        return FULL, config
    if entry in QUIRKS:
        shown = {name: value == (entry == "published") for name, value in PUBLISHED_PAIRS.items()}
        shown["hide_rare_words"] &= config.text == GRU  # other text towers have no rare words
        return entry, replace(config, variant=entry, training=replace(config.training, **shown))
    try:
        without = ModelSettings(words=1, without=tuple(entry.split("+"))).without
    except SwanError as error:
        known = f"give {FULL}, {', '.join(QUIRKS)}, or parts to leave out, as in vmsf+sfgs"
        raise SwanError(f"--compare {entry!r}: {error.problem}", known) from None
    return f"without {'+'.join(without)}", replace(config, without=without)


def _write_group(group: Group, members: Sequence[Member]) -> None:
    rows = [
        {"run": member.run.name, "label": member.label, "fold": member.fold, "config": asdict(member.config)}
        for member in members
    ]
    write_json(group.file, {"created_by": CREATED_BY, "members": rows})


def resumed_runs(
    workspace: Workspace, name: str | None = None, dataset: str | None = None, epochs: int | None = None
) -> Runs:
    """The newest run to resume, or the group it belongs to.

    Args:
        workspace: where runs are looked up.
        name: of a run or a group; None for any.
        dataset: of the run; None for any.
        epochs: replaces the configured number of epochs when given.

    Raises:
        SwanError: there is none, or its settings cannot be read.
    """
    group = workspace.find_group(name, dataset) if name else None
    if not group:
        run = workspace.find_run(name, dataset, having="config.json")
        config = resumed_config(run, epochs)
        if name or not config.group:
            return Runs(run.folder, (Member(run, "", config),), grouped=False)
        group = workspace.group(config.dataset, config.group)
    members = []
    for row in group.members():
        run = group.run(row["run"])
        if run.config.exists():
            config = resumed_config(run, epochs)
        else:  # not begun yet
            config = config_from(row["config"], group.file, epochs)
        members.append(Member(run, row["label"], config))
    return Runs(group.folder, tuple(members), grouped=True)


def train_runs(
    workspace: Workspace,
    runs: Runs,
    device: str,
    watching: Callable[[int], AbstractContextManager[Watch]],
    processes: Processes = ALONE,
) -> Report | GroupReport | None:
    """Trains the runs one after another, resuming those already begun.

    Args:
        workspace: where they are.
        runs: from `plan_runs` or `resumed_runs`.
        device: as in `choose_device`.
        watching: from a number of epochs to a context with the `Watch` of one run.
        processes: that train together.

    Returns:
        The recalls of each run on its validation split; None in all processes but the first.
    """
    rows = []
    for place, member in enumerate(runs.members, start=1):
        with watching(member.config.training.epochs) as watch:
            if runs.grouped:
                watch.note(f"run {place} of {len(runs.members)}")
            report = train_run(
                workspace,
                member.run,
                member.config,
                device,
                resume=processes.by_first(member.run.config.exists),
                watch=watch,
                processes=processes,
            )
        rows.append(GroupRow(member.label, member.fold, report))
    if not processes.first:
        return None
    return GroupReport(runs.folder.name, tuple(rows)) if runs.grouped else rows[0].report
