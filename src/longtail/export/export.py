"""Write a model in a format, load it back, and compare it with the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from longtail import api
from longtail.core.errors import ConfigError, LongtailError
from longtail.core.manifest import SPLITS
from longtail.core.rng import torch_generator
from longtail.data.pictures import ArrayPictures
from longtail.engine.run_folder import require_writable, writing
from longtail.export import formats
from longtail.export.card import model_card

PICTURES = 64
TOLERANCE = 1e-4  # of logits, in fp32
ROUNDING = 1e-6  # of the largest logit: about eight steps of fp32

# format -> (suffix, write, load back as a function of pictures)
FORMATS: dict[str, tuple[str, formats.Write, formats.Read]] = {
    "onnx": (".onnx", formats.write_onnx, formats.read_onnx),
    "torch-export": (".pt2", formats.write_torch_export, formats.read_torch_export),
    "safetensors": (".safetensors", formats.write_safetensors, formats.read_safetensors),
    "timm": (".safetensors", formats.write_timm, formats.read_timm),
}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The model.
        card: The model card beside it.
        difference: Largest absolute difference of a logit to the run's, on 64 pictures.
        pictures: Where these come from.
    """

    path: Path
    card: Path
    difference: float
    pictures: str


class Predictor(nn.Module):
    """From RGB pictures in 0..1 to logits; normalisation is inside.

    Args:
        model: A trained model.
        sub_models: Answer with the logits of every sub-model, to be mixed outside.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: api.LoadedModel, *, sub_models: bool = False) -> None:
        super().__init__()
        self.method, self.sub_models = model.method, sub_models
        self.register_buffer("mean", torch.tensor(model.card.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(model.card.std)[:, None, None])

    def forward(self, pictures: Tensor) -> Tensor:
        """Map [B, 3, S, S] in 0..1 to logits [B, C], or of the sub-models [B, T, C]."""
        images = (pictures - self.mean) / self.std
        return self.method.answers(images) if self.sub_models else self.method.predict(images)


def export_run(
    run: Path, form: str, out: Path | None = None, *, sub_models: bool = False
) -> Exported:
    """Export the model of a finished run and check the written file.

    Args:
        run: Run folder.
        form: One of `FORMATS`.
        out: File; `<run>/export/model.<suffix>` if not given.
        sub_models: Write the logits of every sub-model [B, T, C] instead of the mixture, for test-time
            learning elsewhere; onnx and torch-export only.

    Raises:
        ConfigError: If there is no such format, a package is missing, or the model does not fit it.
        LongtailError: If the written file answers otherwise than the run; it is removed.
    """
    if form not in FORMATS:
        raise ConfigError(f"--format must be one of {', '.join(FORMATS)}, not {form!r}.")
    suffix, write, read = FORMATS[form]
    stem = "sub-models" if sub_models else "model"
    target = out or run / "export" / f"{stem}-{form}{suffix}"
    if target.suffix != suffix:
        raise ConfigError(
            f"The format {form} is written to a file ending in {suffix}, not {target}."
        )
    if target.exists():
        raise ConfigError(f"{target} exists already; choose another file with --out.")
    require_writable(target)
    model = api.load(run, device="cpu")
    opened = api.Run.open(run)
    predictor = Predictor(model, sub_models=sub_models).eval()
    pictures, source = _pictures(opened, model)
    if sub_models:
        _require_sub_models(predictor, pictures, form)
    with writing(target) as file:
        about = formats.About.of(opened, model)
        write(predictor, about, file)
        with torch.inference_mode():
            expected = predictor(pictures)
        difference = compare(expected, read(file, about), pictures)
        allowed = TOLERANCE + ROUNDING * float(expected.abs().max())
        if not difference <= allowed:  # NaN is a difference too
            raise LongtailError(
                f"The exported model differs from the run by {difference:.2e} in a logit, more than "
                f"{allowed:.2g}; it was not kept. Please report this with the configuration."
            )
    card = target.with_name(f"{target.stem}-card.md")
    with writing(card) as file:
        file.write_text(model_card(opened, model, target, form, difference), encoding="utf-8")
    return Exported(target, card, difference, source)


def _require_sub_models(predictor: nn.Module, pictures: Tensor, form: str) -> None:
    if form not in ("onnx", "torch-export"):
        raise ConfigError(
            f"--sub-models is for onnx and torch-export; {form} holds the weights of all."
        )
    with torch.inference_mode():
        if predictor(pictures[:1]).shape[1] == 1:
            raise ConfigError("--sub-models: this method is one model; leave the option out.")


def compare(expected: Tensor, exported: Callable[[Tensor], Tensor], pictures: Tensor) -> float:
    """Return the largest difference of a logit, in batches of one and of many."""
    whole = (exported(pictures) - expected).abs().max()
    single = (exported(pictures[:1]) - expected[:1]).abs().max()
    return float(torch.maximum(whole, single))


def _pictures(run: api.Run, model: api.LoadedModel) -> tuple[Tensor, str]:
    """Return 64 pictures in 0..1: the run's own where its data opens, noise otherwise."""
    size = model.card.image_size
    try:
        data = run.open_data()
    except LongtailError:
        shape = (PICTURES, 3, size, size)
        noise = torch.rand(shape, generator=torch_generator(0, "export"))
        return noise, "noise, because the run's data could not be opened"
    split = next(s for s in reversed(SPLITS) if data.manifest.has(s))
    part = data.split(split)
    rows = range(min(PICTURES, len(part.manifest)))
    if isinstance(part.pictures, ArrayPictures):
        pixels = part.pictures.pixels[: len(rows)]
    else:
        decode = part.pictures.decode
        pixels = torch.stack([torch.from_numpy(decode(row)) for row in rows])
    return pixels.float() / 255, f"{len(rows)} pictures of split {split}"
