"""`longtail text-head`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from longtail.cli.lines import say
from longtail.cli.recipes import complete_recipe
from longtail.cli.show import checking
from longtail.config.yaml_text import read_yaml, values
from longtail.core.boundary import named
from longtail.core.errors import ConfigError
from longtail.core.names import normal_name
from longtail.engine.hardware import find_device
from longtail.engine.run_folder import RunFolder, require_writable, writing
from longtail.models.class_vectors import SUFFIXES, write_class_vectors
from longtail.models.text_tower import (
    DEFAULT_MODEL,
    DEFAULT_TEMPLATE,
    DEFAULT_WEIGHTS,
    as_words,
    load_text_tower,
    require_places,
)
from longtail.recipes import resolve
from longtail.runs import Run


def text_head(
    source: Annotated[
        str,
        typer.Argument(
            help="Where the classes are from: a folder or table of images, a recipe, or a run.",
            autocompletion=complete_recipe,
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="File to write; its name must end in .safetensors or .npz.")
    ] = Path("text-head.safetensors"),
    model: Annotated[
        str, typer.Option(help="Model of open_clip, or hf-hub:timm/... .")
    ] = DEFAULT_MODEL,
    weights: Annotated[
        str | None, typer.Option(help="Tag of its weights, or a file; none for hf-hub: models.")
    ] = DEFAULT_WEIGHTS,
    template: Annotated[
        list[str] | None,
        typer.Option(
            help="Text with {} for the class, repeatable: several are averaged. If not given: "
            f"{DEFAULT_TEMPLATE}"
        ),
    ] = None,
    names: Annotated[
        Path | None,
        typer.Option(help="YAML file of what to call classes in texts: CLASS: WORDS."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = None,
) -> None:
    """Turn class names into vectors with a CLIP or SigLIP text network, to initialise a head.

    Needs open_clip (pip install 'longtail[text]'). The text and the image network must be of one model; the
    default fits the backbone vit_base_patch16_clip_quickgelu_224.openai.

    Examples:

      longtail text-head my-images --out text.safetensors

      longtail train my-images head_start=vectors head_start.file=text.safetensors train=nothing
      backbone=vit_base_patch16_clip_quickgelu_224.openai pretrained=true

      longtail text-head my-images --template 'a photo of a {}.' --template 'a drawing of a {}.'
    """
    if out.suffix not in SUFFIXES:
        raise ConfigError(f"--out {out}: vectors are written as {' or '.join(SUFFIXES)}.")
    require_writable(out)
    templates = template or [DEFAULT_TEMPLATE]
    require_places(templates)
    classes = _classes(source)
    words = _words(classes, names)
    of_hub = model.startswith("hf-hub:")
    tower = load_text_tower(model, None if of_hub else weights, find_device(device))
    vectors = tower.vectors(words, templates)
    about = {
        "model": model,
        "weights": "" if of_hub else str(weights),
        "templates": "\n".join(templates),
        "classes_sha256": hashlib.sha256("\0".join(classes).encode()).hexdigest(),
    }
    with writing(out) as temporary:
        # the kind of file is told by its name
        staged = temporary.with_name(f"{temporary.name}{out.suffix}")
        write_class_vectors(staged, classes, vectors, tower.projection(), about)
        staged.replace(temporary)
    say(f"written: {out}: {len(classes)} classes, {vectors.shape[1]} numbers each, by {model}")
    say(f"the first text: {templates[0].replace('{}', words[0])}")
    say(
        f"zero-shot: longtail train {source} head_start=vectors head_start.file={out} train=nothing"
    )


def _classes(source: str) -> tuple[str, ...]:
    """Return the names of the classes of a run, or of data."""
    folder = RunFolder(Path(source))
    if folder.config.exists():
        return Run.open(Path(source)).checkpoint()[1].classes
    with checking() as progress:
        return Run(RunFolder(Path()), resolve(source)).open_data(progress).manifest.classes


def _words(classes: Sequence[str], names: Path | None) -> list[str]:
    """Return what each class is called in a text.

    Raises:
        ConfigError: If the file names classes that there are not, or a class is a number or a code.
    """
    given: dict[str, str] = {}
    if names is not None:
        content = values(read_yaml(names))
        if not isinstance(content, dict):
            raise ConfigError(f"{names} must be a mapping, CLASS: WORDS.")
        given = {normal_name(str(key)): str(text) for key, text in content.items()}
        known = {normal_name(name) for name in classes}
        if unknown := sorted(set(given) - known):
            raise ConfigError(f"{names} names classes that there are not: {named(unknown)}.")
    words = [given.get(normal_name(name)) or as_words(name) for name in classes]
    wordless = [text for text in words if sum(letter.isalpha() for letter in text) < 2]
    if wordless:
        raise ConfigError(
            f"{len(wordless)} of {len(classes)} classes have no words in their names ({named(wordless)}), "
            "and a text network knows words. Say what they are called: --names FILE, lines of CLASS: WORDS."
        )
    return words
