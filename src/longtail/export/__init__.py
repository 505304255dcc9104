"""Take a trained model away: ONNX, torch.export, safetensors or timm weights, each checked."""

from longtail.export.export import FORMATS, Exported, export_run

__all__ = ["FORMATS", "Exported", "export_run"]
