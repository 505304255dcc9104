"""The formats: how each is written, and how it is loaded back as a function of images."""

from __future__ import annotations

import importlib
import io
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from longtail.core.counts import ClassCounts
from longtail.core.errors import ConfigError
from longtail.core.groups import ShotGroups
from longtail.core.prior import written
from longtail.data.images.resize import describe_view, view_side
from longtail.export.preparation import program
from longtail.methods import METHODS, Setting
from longtail.models.low_rank import plain_weights
from longtail.models.published import IMAGENET_RESNETS
from longtail.models.resnet_cifar import DEPTHS
from longtail.recipes import validate_stored
from longtail.runs import LoadedModel, Run

OPSET = 18
PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # of the format onnx
NEEDS = "pip install 'longtail[export]'"


@dataclass(frozen=True)
class About:
    """What travels inside a file.

    Attributes:
        facts: Texts: class names, size, normalisation, configuration.
        backbone: Name of the backbone.
        num_classes: C.
        image_size: Side in pixels.
        mean: Of pixels in 0..1.
        std: Likewise.
    """

    facts: Mapping[str, str]
    backbone: str
    num_classes: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, runs: Sequence[Run], model: LoadedModel) -> About:
        """Describe the model of a run, or of an ensemble of several."""
        run, metadata = runs[0], model.metadata
        configs = [one.config.model_dump(mode="json") for one in runs]
        facts = {
            "classes": json.dumps(metadata.classes),
            "class_counts": json.dumps(metadata.class_counts),
            "corrections": json.dumps(metadata.corrections),
            "assumed_prior": json.dumps(written(metadata.prior())),
            "image_size": str(metadata.image_size),
            "input": "RGB images in 0..1, [batch, 3, size, size]; normalisation is part of the model",
            "preprocessing": f"EXIF orientation applied, {describe_view(metadata.image_size, metadata.fit)}",
            "resize_side": str(view_side(metadata.image_size, metadata.fit)),
            "preprocessing_python": program(metadata.image_size, metadata.fit),
            "fit": metadata.fit,
            "bit_depth": json.dumps(metadata.bit_depth),
            "mean": json.dumps(metadata.mean),
            "std": json.dumps(metadata.std),
            "weights_sha256": metadata.weights_sha256,
            "config": json.dumps(configs if len(runs) > 1 else configs[0]),
        }
        if model.calibration is not None:
            told = model.calibration.described.model_dump(mode="json", exclude={"measured"})
            facts["calibration"] = json.dumps(told)
        return cls(
            facts, str(run.config.model.backbone), len(metadata.classes), metadata.image_size, metadata.mean,
            metadata.std,
        )  # fmt: skip


Write = Callable[[nn.Module, About, Path], None]
Read = Callable[[Path, About], Callable[[Tensor], Tensor]]


def write_onnx(predictor: nn.Module, about: About, file: Path) -> None:
    """Write ONNX of opset 18 with a dynamic batch."""
    onnx = _package("onnx")
    images = torch.rand(2, 3, about.image_size, about.image_size)
    program = torch.onnx.export(
        predictor, (images,), dynamo=True, opset_version=OPSET, verbose=False,
        input_names=["images"], output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )  # fmt: skip
    assert program is not None, "the dynamo exporter returns a program"
    model = program.model_proto
    onnx.helper.set_model_props(model, dict(about.facts))
    file.write_bytes(model.SerializeToString())


def read_onnx(file: Path, about: About) -> Callable[[Tensor], Tensor]:
    """Load ONNX with onnxruntime."""
    runtime = _package("onnxruntime")
    session = runtime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    stored = session.get_modelmeta().custom_metadata_map
    assert stored["classes"] == about.facts["classes"], "class names travel inside"
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def write_torch_export(predictor: nn.Module, about: About, file: Path) -> None:
    """Write a program of torch.export with a dynamic batch."""
    images = torch.rand(2, 3, about.image_size, about.image_size)
    program = torch.export.export(
        predictor, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    content = io.BytesIO()  # torch's own writer ends the process on a full disk
    torch.export.save(program, content, extra_files=dict(about.facts))
    file.write_bytes(content.getbuffer())


def read_torch_export(file: Path, about: About) -> Callable[[Tensor], Tensor]:
    """Load a program of torch.export."""
    extra = {"classes": ""}
    with file.open("rb") as stream, warnings.catch_warnings():
        # torch 2.11 warns of a buffer of its own, which it only reads
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        program = torch.export.load(stream, extra_files=extra)
    assert extra["classes"] == about.facts["classes"], "class names travel inside"
    module: Any = program.module()
    return _without_gradient(module)


def write_safetensors(predictor: nn.Module, about: About, file: Path) -> None:
    """Write all weights of the method; the header says how to build it."""
    method: Any = predictor.method
    weights = {name: value.contiguous() for name, value in method.state_dict().items()}
    file.write_bytes(safetensors.torch.save(weights, metadata=dict(about.facts)))


def read_safetensors(file: Path, about: About) -> Callable[[Tensor], Tensor]:
    """Build the method that the header describes and load the weights."""
    with safetensors.safe_open(file, framework="pt") as opened:
        facts = opened.metadata()
        weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    config = validate_stored(json.loads(facts["config"]), str(file))
    counts = ClassCounts(json.loads(facts["class_counts"]), json.loads(facts["classes"]))
    model = config.model.untrained()
    setting = Setting(
        counts, ShotGroups.from_counts(counts, config.data.groups), config.training.epochs,
        lambda: model.build(about.image_size), model.build_experts,
    )  # fmt: skip
    kind: Any = METHODS[config.method_name]
    method = kind(config.method, setting)
    method.load_state_dict(weights)
    method.eval()
    mean, std = (torch.tensor(values)[:, None, None] for values in (about.mean, about.std))
    return _without_gradient(lambda images: method.predict((images - mean) / std))


def write_timm(predictor: nn.Module, about: About, file: Path) -> None:
    """Write weights that `timm.create_model(name, checkpoint_path=...)` loads."""
    method: Any = predictor.method
    network = _timm_network(about)
    head = getattr(method, "head", None)
    if not isinstance(head, nn.Linear) or hasattr(method, "scales"):
        raise ConfigError(
            "A timm model has a backbone and one linear layer, but this method uses more to predict. "
            "Export it as onnx, torch-export or safetensors."
        )
    if method.backbone.enlarge_to is not None:
        raise ConfigError(
            "timm models do not enlarge images; export as onnx, torch-export or safetensors."
        )
    place = network.default_cfg["classifier"]
    weights = plain_weights(method.backbone.network)
    weights |= {f"{place}.{key}": value for key, value in head.state_dict().items()}
    plain = {key: value.contiguous() for key, value in weights.items()}
    architecture = {"architecture": _timm_name(about.backbone)}
    metadata = {**about.facts, **architecture}
    file.write_bytes(safetensors.torch.save(plain, metadata=metadata))


def read_timm(file: Path, about: About) -> Callable[[Tensor], Tensor]:
    """Load the weights with timm."""
    network = _timm_network(about)
    network.load_state_dict(safetensors.torch.load_file(file))
    network.eval()
    mean, std = (torch.tensor(values)[:, None, None] for values in (about.mean, about.std))
    return _without_gradient(lambda images: network((images - mean) / std))


def _timm_network(about: About) -> Any:  # noqa: ANN401 - timm has no common type
    """Build timm's network; one that is made for a single size is told the size in use."""
    import timm  # takes seconds

    name = _timm_name(about.backbone)
    known = timm.get_pretrained_cfg(name)
    made_for: dict[str, Any] = {}
    if known is not None and known.fixed_input_size:
        made_for["img_size"] = about.image_size
    return timm.create_model(name, num_classes=about.num_classes, **made_for)


def _timm_name(backbone: str) -> str:
    import timm  # takes seconds

    if backbone in IMAGENET_RESNETS:
        known = IMAGENET_RESNETS[backbone].timm_name
        backbone = known or backbone
    if backbone in DEPTHS or not timm.is_model(backbone.split(".")[0]):
        raise ConfigError(
            f"timm has no network {backbone}; export it as onnx, torch-export or safetensors."
        )
    return backbone


def _without_gradient(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def call(images: Tensor) -> Tensor:
        with torch.no_grad():
            return function(images)

    return call


def require_packages(form: str) -> None:
    """Refuse a format whose packages are not installed, before a model is loaded for it.

    Raises:
        ConfigError: With the command that installs them.
    """
    for name in PACKAGES if form == "onnx" else ():
        _package(name)


def _package(name: str) -> Any:  # noqa: ANN401 - a module
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"The format onnx needs the package {name}: {NEEDS}") from error
