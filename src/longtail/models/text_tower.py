"""Vectors of class names by the text network of CLIP or SigLIP; images are not looked at here.

Each class is put into one or several texts ("a photo of a {}."). Their unit vectors are averaged and scaled
to unit length (Radford et al., ICML 2021, section 3.1.4). The networks are those of open_clip, an extra:
pip install 'longtail[text]'.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from longtail.core.boundary import brief
from longtail.core.errors import ConfigError

DEFAULT_MODEL, DEFAULT_WEIGHTS = "ViT-B-16-quickgelu", "openai"
DEFAULT_TEMPLATE = "a photo of a {}."
TEXTS_TOGETHER = 256
NEEDS = "longtail text-head needs open_clip: pip install 'longtail[text]'"


@dataclass(frozen=True)
class TextTower:
    """A text network with its tokenizer.

    Attributes:
        model: Of open_clip, in eval mode.
        tokenizer: From texts to numbers.
        device: Where the model is.
    """

    model: Any
    tokenizer: Any
    device: torch.device

    @torch.inference_mode()
    def vectors(self, words: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Return one unit vector a class, float32 [C, E].

        Args:
            words: What each class is called in a text.
            templates: Texts with `{}` in place of the class, see `require_places`.
        """
        whole = torch.stack([self._of([t.replace("{}", w) for w in words]) for t in templates])
        return F.normalize(whole.mean(dim=0), dim=1)

    def _of(self, texts: Sequence[str]) -> Tensor:
        parts = []
        for start in range(0, len(texts), TEXTS_TOGETHER):
            tokens = self.tokenizer(list(texts[start : start + TEXTS_TOGETHER])).to(self.device)
            parts.append(F.normalize(self.model.encode_text(tokens).float(), dim=1).cpu())
        return torch.cat(parts)

    def projection(self) -> Tensor | None:
        """Return P [E, D], with which the image network maps features to the space of texts; None without."""
        visual: Any = self.model.visual
        matrix = getattr(visual, "proj", None)  # [D, E], of open_clip's own networks
        if isinstance(matrix, Tensor):
            return matrix.detach().float().cpu().T.contiguous()
        last = getattr(getattr(visual, "head", None), "proj", None)  # a layer, of timm's
        bias: Any = getattr(last, "bias", None)
        if isinstance(last, torch.nn.Linear) and bias is None:
            return last.weight.detach().float().cpu()
        return None


def require_places(templates: Sequence[str]) -> None:
    """Refuse templates without a place for the class.

    Raises:
        ConfigError: If one holds `{}` not once.
    """
    for template in templates:
        if template.count("{}") != 1:
            raise ConfigError(
                f"The template {template!r} must hold {{}} once, in place of the class."
            )


def load_text_tower(name: str, weights: str | None, device: torch.device) -> TextTower:
    """Load a model of open_clip.

    Args:
        name: As open_clip calls it, `ViT-B-16-quickgelu`, or `hf-hub:timm/ViT-B-16-SigLIP2`.
        weights: Its tag (`openai`) or a file; None for those of `hf-hub:`.
        device: Where to compute.

    Raises:
        ConfigError: If open_clip is missing, or model or weights cannot be loaded.
    """
    try:
        open_clip: Any = importlib.import_module("open_clip")
    except ImportError as error:
        raise ConfigError(NEEDS) from error
    try:
        model = open_clip.create_model(name, pretrained=weights, device=device)
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:
        # open_clip, the hub and the tokenizers raise their own kinds of errors
        raise ConfigError(
            f"The text network {name} with the weights {weights or 'of the hub'} could not be loaded "
            f"({type(error).__name__}: {brief(error)}). Without a connection name a file with --weights "
            "FILE, or put them into the Hugging Face cache first; known models: python -c 'import open_clip; "
            "print(open_clip.list_pretrained())'."
        ) from error
    return TextTower(model.eval(), tokenizer, device)


def as_words(name: str) -> str:
    """Return a class name as it stands in a text: `aquarium_fish` is `aquarium fish`."""
    return " ".join(name.replace("_", " ").split())
