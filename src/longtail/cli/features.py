"""`longtail features`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from longtail.cli.lines import say
from longtail.cli.recipes import complete_recipe
from longtail.cli.show import checking
from longtail.cli.train import Overrides
from longtail.core.errors import ConfigError
from longtail.engine.run_folder import RunFolder, require_writable
from longtail.runs import Run
from longtail.runs import features as api


def features(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder or table of your images, recipe, or run folder.",
            autocompletion=complete_recipe,
        ),
    ],
    overrides: Overrides = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="Network with published weights: backbone=NAME pretrained=true."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write a table too, FILE.npz: features, labels, splits.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = None,
) -> None:
    """Compute the features of a frozen backbone once, for all runs that use them.

    They are stored in the cache folder ($LONGTAIL_CACHE, or ~/.cache/longtail), by the content of each image,
    the weights and the preprocessing. Every training on frozen features reads them, whatever its seed, split,
    loss and head. If the data changes, only new images are computed.

    Examples:

      longtail features my-images

      longtail features my-images --backbone vit_small_patch14_dinov2.lvd142m

      longtail features cifar100-lt/balanced-softmax weights=embedded enlarge_to=96 --out features.npz
    """
    if out is not None:
        require_writable(out)
        if out.suffix != ".npz":
            raise ConfigError(f"--out {out}: features are written as .npz; name the file so.")
    changes = [*(overrides or ())]
    if backbone is not None:
        changes += [f"backbone={backbone}", "pretrained=true"]
    of_run = RunFolder(Path(source)).config.exists()
    if of_run and changes:
        raise ConfigError(f"{source} is a run, whose backbone is known; leave options out.")
    begin = time.perf_counter()
    with checking() as progress:
        found = api(
            Run.open(Path(source)) if of_run else source,
            changes, device=device, note=say, progress=progress,
        )  # fmt: skip
    for note in found.notes:
        say(f"note: {note}")
    images, width = found.values.shape
    say(
        f"{found.manifest.name}: {images:,} images, {width:,} features each, by {found.backbone}, "
        f"{time.perf_counter() - begin:.1f} s"
    )
    if out is not None:
        found.write(out)
        say(f"written: {out}")
        say(f"put a classifier on them: longtail adjust {out}")
