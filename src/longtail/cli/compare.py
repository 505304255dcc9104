"""`longtail compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longtail.cli.lines import say
from longtail.cli.recipes import complete_recipe
from longtail.cli.show import checking
from longtail.data.sources.file_set import OnBadImage
from longtail.run_queue.budget import BUDGET
from longtail.run_queue.comparison import COMPARED, compare_methods
from longtail.run_queue.parallel import PARALLEL

Source = Annotated[
    str,
    typer.Argument(
        help="Folder or table of your images, or a recipe.", autocompletion=complete_recipe
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="key=value for all methods, for example backbone=resnet32."),
]
Methods = Annotated[
    str,
    typer.Option(
        help="Names of recipes (see longtail recipes cifar100-lt), methods or your own recipe files, "
        f"with commas between them; by default {COMPARED.replace(',', ', ')}.",
        show_default=False,
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        help="What all methods share: frozen-features or fine-tuning (of a pretrained network), or "
        "balanced-softmax (a network from random weights); by default, the first that suits all methods."
    ),
]


def compare(
    source: Source,
    overrides: Overrides = None,
    methods: Methods = COMPARED,
    budget: Annotated[str | None, typer.Option(help=BUDGET)] = None,
    equal: Annotated[
        str,
        typer.Option(
            help="images: all methods see equally many images; time: all train equally long."
        ),
    ] = "images",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds per method.")] = 3,
    base: Base = None,
    *,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the comparison; runs/compare-NAME if not given.")
    ] = None,
    on_bad_image: Annotated[
        OnBadImage | None, typer.Option(help="What to do with damaged files: error or skip.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = None,
    parallel: Annotated[int | None, typer.Option(min=1, help=PARALLEL)] = None,
) -> None:
    """Train several methods on your images with equal budgets, and recommend one by val accuracy.

    All methods share data, network and training; methods with the same first stage train it once. An
    interrupted comparison continues when the command is repeated. To compare runs that are already trained,
    use longtail report RUN RUN.

    Examples:

      longtail compare my-images --budget 30m

      longtail compare my-images --methods balanced-softmax,crt,tau,balpoe --budget 2h

      longtail compare my-images --methods ldam-drw,paco,mine.yaml backbone=resnet32 --equal time --budget 8h
    """
    changes = [*(overrides or ())]
    changes += [] if on_bad_image is None else [f"data.on_bad_image={on_bad_image}"]
    found = compare_methods(
        source, changes, methods=methods, budget=budget, equal=equal, seeds=seeds, base=base, out=out,
        device=device, parallel=parallel, note=say, checking=checking, progress=True,
    )  # fmt: skip
    for sentence in found.sentences:
        say(sentence)
    if found.page is not None:
        say(f"written: {found.page}")
        best = next(iter(found.runs.values()))[0]
        say(f"to use the model: longtail predict {best.folder.path} IMAGES")
    if found.left:
        say(found.left)
