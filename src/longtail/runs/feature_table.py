"""Features of a data set by a frozen backbone, as a table: what `longtail train` reads, for any other use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from longtail.core.errors import ConfigError
from longtail.core.manifest import SPLITS, Manifest
from longtail.core.rng import derive_seed
from longtail.data.data_set import DataSet
from longtail.data.preparation import Progress
from longtail.engine.hardware import find_device
from longtail.engine.optimisation import seeded
from longtail.engine.run_folder import RunFolder, writing
from longtail.frozen import frozen_features
from longtail.recipes import RunConfig, resolve
from longtail.recipes.settling import settle
from longtail.runs.run import Run

Note = Callable[[str], None]


@dataclass(frozen=True)
class Features:
    """What a backbone makes of every image of a data set.

    Attributes:
        values: float32 [N, D], row by row as the manifest.
        manifest: Ids, labels, splits and paths of the images, and the names of the classes.
        backbone: Full name of the network.
        notes: Findings about the data, and which weights were chosen.
    """

    values: NDArray[np.float32]
    manifest: Manifest
    backbone: str
    notes: tuple[str, ...] = ()

    def write(self, path: Path) -> None:
        """Write a `.npz` that `longtail adjust` and other tools read.

        Arrays: features [N, D], labels [N], split [N], classes [C], class_counts [C], ids [N].

        Raises:
            ConfigError: If the name ends otherwise.
        """
        if path.suffix != ".npz":
            raise ConfigError(
                f"{path}: features are written as .npz; name the file {path.stem}.npz."
            )
        known = self.manifest
        with writing(path) as temporary, temporary.open("wb") as stream:
            np.savez(
                stream,
                features=self.values, labels=known.labels, ids=known.ids,
                split=np.array(SPLITS)[known.splits], classes=np.array(known.classes),
                class_counts=known.histogram("train"),
            )  # fmt: skip


def features(
    source: str | Path | RunConfig | Run,
    overrides: Sequence[str] = (),
    *,
    device: str | None = None,
    data: DataSet | None = None,
    note: Note = lambda text: None,
    progress: Progress = lambda done, size: None,
) -> Features:
    """Return the features of all images of a data set; those that are known are read from the cache folder.

    Args:
        source: A folder or table of images, a recipe, or a run: its data and its `model:` part.
        overrides: `key=value` for a source that is a text, as for `train`: `weights=FILE`, `image_size=...`,
            `backbone=... pretrained=true`. Without any, the backbone is the one that `train` would choose.
        device: As for `train`.
        data: The data set, if it is open already.
        note: Told how far it is and where the features are kept.
        progress: Called while image files are checked, and while features are computed.

    Raises:
        ConfigError: If the backbone begins with random weights, whose features mean nothing.
        LongtailError: In words, if the data or the weights cannot be read.
    """
    place = find_device(device)
    run = source if isinstance(source, Run) else None
    if isinstance(source, str | Path):
        source = resolve(str(source), overrides)
    config = source.config if isinstance(source, Run) else source
    if data is None:
        data = (run or Run(RunFolder(Path()), config)).open_data(progress)
    config, reasons = settle(config, data, place)
    if not config.model.begins_trained:
        raise ConfigError(
            "Features are those of a trained backbone, and this one begins with random weights. Name "
            "weights: pretrained=true, weights=FILE or weights=embedded."
        )
    size = data.images.size
    model = config.model.resolved(size)
    if (expected := model.normalisation()) is not None:
        data = data.normalised_by(*expected)
    with seeded(derive_seed(config.training.seed, "initialisation")):
        backbone = model.build(size)
    values = frozen_features(
        backbone.to(place), data, device=place, workers=config.training.workers, note=note,
        progress=lambda done, whole, seconds: progress(done, whole),
    )  # fmt: skip
    assert model.backbone is not None
    return Features(values.cpu().numpy(), data.manifest, model.backbone, (*data.notes, *reasons))
