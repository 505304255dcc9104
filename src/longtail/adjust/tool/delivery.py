"""Write a corrected model: all of it, with the note of how it was made, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from longtail.adjust.tool.adjustment import Adjustment, adjust
from longtail.adjust.tool.checkpoints import CheckpointModel
from longtail.adjust.tool.choice import AUTO, choose
from longtail.adjust.tool.corrections import Corrected, Request, fitting
from longtail.adjust.tool.notes import note_of, write_note
from longtail.adjust.tool.runs import RunModel, read_run
from longtail.adjust.tool.tables import Tables
from longtail.core.errors import ConfigError
from longtail.core.groups import GroupRule
from longtail.core.paths import expanded
from longtail.engine.run_folder import writing, writing_folder
from longtail.runs import Run

Model = RunModel | CheckpointModel | Tables


def require_writable_into(model: Model, corrected: Corrected) -> None:
    """Refuse a correction that the model has no place for.

    Raises:
        ConfigError: If its last layer has no bias to carry the correction.
    """
    if corrected.means is not None or isinstance(model, Tables):
        return
    linear = model.model if isinstance(model, RunModel) else model.networks[0].model
    linear.corrected_layer(corrected)


def require_same_format(model: Model, corrected: Corrected) -> None:
    """Refuse, for `auto`, what the file of the model cannot hold; who names the correction gets another file.

    Raises:
        ConfigError: If the last layer has no bias to carry the correction, or class means take its place.
    """
    if corrected.means is not None and isinstance(model, CheckpointModel):
        raise ConfigError(
            "Class means are no layer that the checkpoint could hold; --by ncm writes them as an .npz."
        )
    require_writable_into(model, corrected)


def deliver(
    model: Model, done: Adjustment, target: Path, described: Mapping[str, Any]
) -> list[Path]:
    """Write a corrected model in the format that it came in, and return what was written.

    A process that is killed leaves nothing under the name of the target.

    Args:
        model: What was corrected.
        done: How.
        target: File; folder for a run and for several tables. Missing, or an empty folder.
        described: Content of the note, as JSON.

    Raises:
        CheckpointError: If it cannot be written.
        ConfigError: If the last layer has no bias to carry the correction.
    """
    if isinstance(model, RunModel) or (isinstance(model, Tables) and model.several):
        with writing_folder(target) as folder:
            files = model.write(done, folder)
            write_note(note_of(folder, inside=True), described, files or {})
        names = sorted(files) if files else []
        return [*([target / name for name in names] or [target]), note_of(target, inside=True)]
    if isinstance(model, CheckpointModel):
        target = model.target(done, target)
    note = note_of(target, inside=False)
    # the note first: a file without one would be taken for a model as trained
    with writing(target) as file:
        model.write(done, file)
        with writing(note) as beside:
            write_note(beside, described, {target.name: file})
    return [target, note]


def refuse_harm(done: Adjustment, *, force: bool) -> None:
    """Refuse to write a correction that does not help on val, unless the user insists.

    Raises:
        ConfigError: If it does not help.
    """
    if done.harm is not None and not force:
        raise ConfigError(
            f"This correction does not help: {done.harm}. Nothing was written; --force (force=True in "
            "Python) writes it anyway."
        )


def adjust_run(
    run: Run | Path | str,
    by: str,
    out: Path | str,
    request: Request | None = None,
    *,
    rule: GroupRule = "threshold",
    force: bool = False,
    device: str | None = None,
) -> Adjustment | None:
    """Correct the model of a run and write it as a run folder, scored on the same splits.

    Args:
        run: A finished run, or its folder.
        by: Name of a correction in `CORRECTIONS`; `auto` tries all that fit and chooses on val.
        out: Folder of the corrected run; missing, or empty.
        request: Strength and the like; chosen on val where it is not given.
        rule: Of the shot groups.
        force: Write a correction that does not help on val.
        device: As for `train`.

    Returns:
        What was corrected, with scores before and after; None if `auto` leaves the model as it is, when
        nothing is written.

    Raises:
        ConfigError: If `out` holds something, there is no such correction, it does not help, or a request or
            `force` is given to `auto`.
        LongtailError: As `adjust` does.
    """
    run, out = Run.of(run), expanded(out)
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise ConfigError(f"{out} already exists; choose another place.")
    if by == AUTO and (force or request is not None):
        raise ConfigError(
            "auto takes neither request nor force: it chooses the strength and writes only what helps."
        )
    model = read_run(run.folder.path, device=device)
    described: dict[str, Any] = {"sources": [str(run.folder.path)]}
    if by == AUTO:
        choice = choose(model.evidence, fitting, partial(require_same_format, model))
        described["auto"] = choice.describe()
        if choice.name is None:
            return None
        done = adjust(model.evidence, choice.name, fitting(choice.name), rule=rule)
    else:
        done = adjust(model.evidence, by, request, rule=rule)
        refuse_harm(done, force=force)
    deliver(model, done, out, done.describe() | described)
    return done
