"""Recipes for foundation models: exact weights with a licence, and that they train, on a small network."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from longtail import api
from longtail.models.class_vectors import write_class_vectors
from longtail.models.published import weights_licence
from longtail.recipes import recipe_names, resolve

NAMES = [n for n in recipe_names() if n.startswith("foundation/") or "/foundation-" in n]
# of all others timm states apache-2.0
LICENCES = {
    "vit_small_patch16_dinov3.lvd1689m": "dinov3-license",
    "vit_base_patch16_dinov3.lvd1689m": "dinov3-license",
}


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_are_named_in_full(name):
    model = resolve(name).model
    if model.weights == "embedded":
        return
    assert model.backbone in timm.list_pretrained()
    assert model.pretrained
    found = weights_licence(model.backbone)
    assert found == LICENCES.get(model.backbone, "apache-2.0")


def test_there_is_a_recipe_for_each_backbone():
    assert len(NAMES) == 17


@pytest.mark.parametrize(
    ("name", "size"), [("cifar100", 4), ("imagenet", 32), ("places", 8), ("inat", 256)]
)
def test_the_width_of_the_bottleneck_is_lifts_rule(name, size):
    classes = {"cifar100": 100, "imagenet": 1000, "places": 365, "inat": 8142}[name]
    rule = 1 << max(0, (classes // 24).bit_length() - 1)  # 2^floor(log2(C / (2 L))), L = 12
    assert rule == size
    (recipe,) = [n for n in NAMES if n.startswith(name) and n.endswith("clip-vit-b16")]
    assert resolve(recipe).model.adapter_size == size


@pytest.mark.parametrize("name", ["foundation/dinov2-s", "imagenet-lt/foundation-clip-vit-b16"])
def test_they_train(name, image_folder, tmp_path):
    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=0)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    config = resolve(name)
    options = [
        f"model={{backbone: test_vit, weights: {tmp_path / 'w.safetensors'}, adapter: adaptformer}}",
        f"data={{name: folder, path: {image_folder}, image_size: 32}}",
        "training.epochs=2", "training.batch_size=8", "training.precision=fp32",
    ]  # fmt: skip
    if config.method.head_start.name == "vectors":
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn(3, network.num_features, generator=generator)
        write_class_vectors(tmp_path / "text.npz", ["cow", "ant", "bee"], rows)
        options.append(f"head_start.file={tmp_path / 'text.npz'}")
    run = api.train(name, options, out=tmp_path / "run", device="cpu")
    stages = [line["stage"] for line in run.lines()]
    assert stages[0] == config.method.head_start.name
    assert stages[1:] == ["joint", "joint"]
