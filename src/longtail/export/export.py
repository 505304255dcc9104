"""Write a model in a format, load it back, and compare it with the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from longtail.core.errors import ConfigError, LongtailError
from longtail.core.manifest import SPLITS
from longtail.core.rng import torch_generator
from longtail.core.words import counted
from longtail.data import Phases, Progress
from longtail.data.images.storage import ArrayImages
from longtail.engine.run_folder import require_writable, writing
from longtail.export import formats
from longtail.export.card import as_markdown, ensemble_card, model_card
from longtail.export.from_files import FromFiles, compare_files
from longtail.prediction.finite import require_finite
from longtail.runs import LoadedModel, Run, load
from longtail.runs.ensemble_folder import is_ensemble, member_folders, read_note

IMAGES = 64
TOLERANCE = 1e-4  # of logits, in fp32
ROUNDING = 1e-6  # of the largest logit: about eight steps of fp32

# format -> (suffix, write, load back as a function of images)
FORMATS: dict[str, tuple[str, formats.Write, formats.Read]] = {
    "onnx": (".onnx", formats.write_onnx, formats.read_onnx),
    "torch-export": (".pt2", formats.write_torch_export, formats.read_torch_export),
    "safetensors": (".safetensors", formats.write_safetensors, formats.read_safetensors),
    "timm": (".safetensors", formats.write_timm, formats.read_timm),
}

PROGRAMS = ("onnx", "torch-export")  # formats that hold the computation, not only weights


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The model.
        card: The model card beside it.
        difference: Largest absolute difference of a logit to the run's, on 64 images.
        images: Where these come from.
        prepared: The same from image files on; None where the run has none that can be read.
    """

    path: Path
    card: Path
    difference: float
    images: str
    prepared: FromFiles | None


class Predictor(nn.Module):
    """From RGB images in 0..1 to logits; normalisation is inside.

    Args:
        model: A trained model.
        sub_models: Return the logits of every sub-model, to be combined outside.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: LoadedModel, *, sub_models: bool = False) -> None:
        super().__init__()
        self.method, self.sub_models = model.method, sub_models
        self.register_buffer("mean", torch.tensor(model.metadata.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(model.metadata.std)[:, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        """Map [B, 3, S, S] in 0..1 to logits [B, C], or of the sub-models [B, T, C]."""
        images = (pixels - self.mean) / self.std
        return (
            self.method.sub_model_logits(images) if self.sub_models else self.method.predict(images)
        )


def export_run(
    run: Path,
    form: str,
    out: Path | None = None,
    *,
    sub_models: bool = False,
    progress: Phases = lambda what, done, size: None,
) -> Exported:
    """Export the model of a finished run, or an ensemble, and check the written file.

    Args:
        run: Run folder, or the folder of an ensemble.
        form: One of `FORMATS`.
        out: File; `<run>/export/model.<suffix>` if not given.
        sub_models: Write the logits of every sub-model [B, T, C] instead of the mixture, for test-time
            learning elsewhere; onnx and torch-export only.
        progress: Called with what takes long, how much of it is done, and how much there is.

    Raises:
        ConfigError: If there is no such format, a package is missing, or the model does not fit it.
        OutputError: If the run predicts numbers that are not finite.
        LongtailError: If the written file predicts otherwise than the run; it is removed.
    """
    if form not in FORMATS:
        raise ConfigError(f"--format must be one of {', '.join(FORMATS)}, not {form!r}.")
    suffix, write, read = FORMATS[form]
    stem = "sub-models" if sub_models else "model"
    target = out or run / "export" / f"{stem}-{form}{suffix}"
    if target.suffix != suffix:
        raise ConfigError(
            f"The format {form} is written to a file that ends in {suffix}, not to {target}."
        )
    if is_ensemble(run):
        _require_exportable(run, form)
    if target.exists():
        raise ConfigError(f"{target} already exists; choose another file with --out.")
    require_writable(target)
    formats.require_packages(form)
    model = load(run, device="cpu")
    members = [Run.open(folder) for folder in member_folders(run)]
    opened = members[0]
    predictor = Predictor(model, sub_models=sub_models).eval()
    images, source = _images(opened, model, partial(progress, "reading images"))
    if sub_models:
        _require_sub_models(predictor, images, form)
    with writing(target) as file:
        about = formats.About.of(members, model)
        with _lasting(progress, f"writing {form}"):
            write(predictor, about, file)
        with _lasting(progress, "comparing logits"):
            exported = read(file, about)
            difference = _require_same(predictor, exported, images)
        prepared = None
        if not sub_models:
            told = partial(progress, "comparing image files")
            prepared = compare_files(opened, model, predictor, exported, told)
    card = target.with_name(f"{target.stem}-card.md")
    with writing(card) as file:
        where = _compared(target, form, difference, prepared)
        text = (
            ensemble_card(read_note(run), members, model, where)
            if is_ensemble(run)
            else model_card(opened, model, form, where)
        )
        file.write_text(text, encoding="utf-8")
    return Exported(target, card, difference, source, prepared)


def _compared(file: Path, form: str, difference: float, prepared: FromFiles | None) -> str:
    said = (
        f"File: {as_markdown(file.name)} ({form}). On the images compared, its logits differ from the "
        f"trained model's by at most {difference:.1e}."
    )
    if prepared is None:
        return said
    return (
        f"{said} On {counted(prepared.files, 'image file', 'image files')} that the program below prepared, "
        f"its probabilities differ from those of `longtail predict` by at most {prepared.difference:.1e}."
    )


def _require_exportable(path: Path, form: str) -> None:
    """Refuse what an exported file cannot hold of an ensemble.

    Raises:
        ConfigError: If the format holds one network, or weights are sought anew for each image.
    """
    if form not in PROGRAMS:
        raise ConfigError(
            f"{path} is an ensemble of several networks, but {form} holds the weights of a single "
            f"network. Export it as {' or '.join(PROGRAMS)}, which hold the whole computation."
        )
    name = read_note(path).combination
    if name.startswith("instance"):
        raise ConfigError(
            f"{path} combines its models by {name!r}, which searches weights for each image. On other "
            "hardware, rounding can change the weights, so this is not exported: use longtail "
            "predict, or write an average or a stacking (--combination)."
        )


def _require_sub_models(predictor: nn.Module, images: Tensor, form: str) -> None:
    if form not in PROGRAMS:
        raise ConfigError(
            f"--sub-models works only with onnx and torch-export; {form} contains the weights of all "
            "sub-models anyway."
        )
    with torch.inference_mode():
        if predictor(images[:1]).shape[1] == 1:
            raise ConfigError("--sub-models: this method is a single model; leave out the option.")


@contextmanager
def _lasting(progress: Phases, what: str) -> Iterator[None]:
    """Tell of something that takes long, of which nobody knows how far it is."""
    progress(what, 0, 0)
    yield
    progress(what, 1, 1)


def _require_same(
    predictor: nn.Module, exported: Callable[[Tensor], Tensor], images: Tensor
) -> float:
    """Return by how much a logit of the exported model differs at most.

    Raises:
        OutputError: If the run predicts numbers that are not finite.
        LongtailError: If it is more than rounding.
    """
    with torch.inference_mode():
        expected = require_finite(predictor(images), "The model")
    difference = compare(expected, exported, images)
    allowed = TOLERANCE + ROUNDING * float(expected.abs().max())
    if not difference <= allowed:  # NaN is a difference too
        raise LongtailError(
            f"The logits of the exported model differ from the run's by {difference:.2e}, more than "
            f"{allowed:.2g}, so it was deleted. Please report this with the configuration."
        )
    return difference


def compare(expected: Tensor, exported: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """Return the largest difference of a logit, in batches of one and of many."""
    whole = (exported(images) - expected).abs().max()
    single = (exported(images[:1]) - expected[:1]).abs().max()
    return float(torch.maximum(whole, single))


def _images(run: Run, model: LoadedModel, progress: Progress) -> tuple[Tensor, str]:
    """Return 64 images in 0..1: the run's own where its data opens, noise otherwise."""
    size = model.metadata.image_size
    try:
        data = run.open_data(progress)
    except LongtailError:
        shape = (IMAGES, 3, size, size)
        noise = torch.rand(shape, generator=torch_generator(0, "export"))
        return noise, "noise, because the run's data could not be opened"
    split = next(s for s in reversed(SPLITS) if data.manifest.has(s))
    part = data.split(split)
    rows = range(min(IMAGES, len(part.manifest)))
    if isinstance(part.images, ArrayImages):
        pixels = part.images.pixels[: len(rows)]
    else:
        decode = part.images.decode
        pixels = torch.stack([torch.from_numpy(decode(row)) for row in rows])
    return pixels.float() / 255, f"{len(rows)} images of split {split}"
