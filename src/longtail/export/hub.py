"""Push the model of a run to the Hugging Face hub; fetching one is in `longtail.runs.hub`."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from longtail.core.errors import ConfigError, LongtailError
from longtail.engine.checkpoint import METADATA, WEIGHTS
from longtail.export.card import as_markdown, model_card
from longtail.recipes.plugins import plugins_of
from longtail.runs import Run, load
from longtail.runs.ensemble_folder import is_ensemble
from longtail.runs.hub import FILES, PREFIX, require_name, words

HEADER = """\
---
library_name: longtail
pipeline_tag: image-classification
tags: [image-classification, long-tailed-recognition]
---
"""


def push_run(path: Path, name: str, *, private: bool = False) -> str:
    """Push the model of a finished run: configuration, weights, calibration, scores and model card.

    Args:
        path: The run folder.
        name: `owner/name` on the hub; made if it does not exist, replaced by a new commit if it does.
        private: Make it private, if it is made.

    Returns:
        Its address.

    Raises:
        LongtailError: In words, if the run is not finished, needs a plug-in, or the hub refuses.
    """
    require_name(name)
    if is_ensemble(path):
        raise ConfigError(
            f"{path} is an ensemble, and only single runs are pushed. Push its runs, or export it as onnx."
        )
    run = Run.open(path)
    if plugins_of(run.config.method):
        raise ConfigError(
            f"{path} needs a plug-in, and longtail loads no code from the hub. Export it instead: longtail "
            f"export {path} --format onnx."
        )
    with tempfile.TemporaryDirectory() as folder:
        write_model(run, name, Path(folder))
        return _uploaded(Path(folder), name, private=private)


def write_model(run: Run, name: str, folder: Path) -> None:
    """Write what is pushed into an empty folder, which opens as a run folder."""
    model = load(run.folder.path, device="cpu")
    checkpoint, _ = run.checkpoint()
    own = folder / run.folder.checkpoints.name / checkpoint.name
    own.mkdir(parents=True)
    for file in (WEIGHTS, METADATA):
        shutil.copyfile(checkpoint / file, own / file)
    scores = [run.folder.scores(split) for split in run.evaluated_splits()]
    for path in (run.folder.config, run.folder.run, run.folder.calibration, *scores):
        if path.exists():
            shutil.copyfile(path, folder / path.name)
    use = as_markdown(f"{PREFIX}{name}")
    card = model_card(
        run, model, "run",
        f'Load it with `longtail.load("{use}")`, or use it with `longtail predict {use} IMAGES`. Weights are '
        "safetensors, and loading runs no code.",
    )  # fmt: skip
    (folder / "README.md").write_text(HEADER + card, encoding="utf-8")


def _uploaded(folder: Path, name: str, *, private: bool) -> str:
    from huggingface_hub import HfApi  # takes a second to import

    hub = HfApi(library_name="longtail")
    try:
        address = hub.create_repo(name, private=private or None, exist_ok=True)
        # one commit: no file of an earlier model stays beside this one
        hub.upload_folder(
            repo_id=name, folder_path=folder, commit_message="Push a model of longtail",
            delete_patterns=list(FILES),
        )  # fmt: skip
    except Exception as error:
        raise LongtailError(
            f"The model cannot be pushed to {name}: {words(error)} Log in with `hf auth login`."
        ) from error
    return str(address)
