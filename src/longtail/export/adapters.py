"""The trained part of a light fine-tuning alone, for whoever has the published weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from longtail.core.errors import ConfigError, LongtailError
from longtail.engine.run_folder import require_writable, writing, writing_folder
from longtail.export.formats import About
from longtail.models.adapter_files import (
    KEPT,
    PEFT_CONFIG,
    PEFT_WEIGHTS,
    kept_checksum,
    load_adapter,
    peft_content,
    trained_tensors,
)
from longtail.runs import Run, build, load

ADAPTER_FORMATS = ("adapter", "peft")


def export_adapter(run: Path, form: str, out: Path | None = None) -> Path:
    """Write what light fine-tuning has trained, load it back, and compare it with the run.

    Args:
        run: Run folder.
        form: `adapter`, one file with the head, or `peft`, a folder with the low-rank additions.
        out: File or folder; `<run>/export/adapter.safetensors` or `<run>/export/peft` if not given.

    Raises:
        ConfigError: If the run trained no adapter, or the target exists.
        LongtailError: If what was written is not what the run has.
    """
    opened, model = Run.open(run), load(run, device="cpu")
    backbone: Any = getattr(model.method, "backbone", None)
    config = opened.config.model
    if backbone is None or (config.low_rank is None and config.adapter is None):
        raise ConfigError(f"{run} trained no adapter (model.low_rank, model.adapter).")
    target = out or run / "export" / ("peft" if form == "peft" else "adapter.safetensors")
    if target.exists():
        raise ConfigError(f"{target} exists already; choose another place with --out.")
    if form == "adapter" and target.suffix != ".safetensors":
        raise ConfigError(f"An adapter is written to a file ending in .safetensors, not {target}.")
    require_writable(target)
    trained = trained_tensors(backbone)
    if form == "peft":
        settings, tensors = peft_content(backbone.network)
        settings["base_model_name_or_path"] = config.backbone
        with writing_folder(target) as folder:
            (folder / PEFT_CONFIG).write_text(json.dumps(settings, indent=2), encoding="utf-8")
            safetensors.torch.save_file(tensors, folder / PEFT_WEIGHTS)
    else:
        others = {
            name: value.contiguous()
            for name, value in model.method.state_dict().items()
            if not name.startswith("backbone.")
        }
        about = About.of([opened], model)
        facts = {**about.facts, "backbone": str(config.backbone), KEPT: kept_checksum(backbone)}
        content = {**{f"backbone.{name}": value for name, value in trained.items()}, **others}
        with writing(target) as file:
            file.write_bytes(safetensors.torch.save(content, metadata=facts))
    again = build(
        opened.config, config.untrained(), model.metadata.counts(), model.metadata.image_size
    )
    fresh: Any = again.backbone
    kept = dict(backbone.named_buffers())
    for name, buffer in fresh.named_buffers():
        buffer.copy_(kept[name])
    load_adapter(fresh, target)
    if any(not torch.equal(value, trained[name]) for name, value in fresh.named_parameters()):
        raise LongtailError(f"{target} does not hold what {run} has trained. Please report this.")
    return target
