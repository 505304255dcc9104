"""Take a trained model away: ONNX, torch.export, safetensors or timm weights, each checked; not trained."""

from longtail.export.adapters import ADAPTER_FORMATS, export_adapter
from longtail.export.export import FORMATS, Exported, export_run

__all__ = ["ADAPTER_FORMATS", "FORMATS", "Exported", "export_adapter", "export_run"]
