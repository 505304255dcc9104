"""Base of all configuration classes: unknown keys are errors, values never change."""

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """Configuration with types and limits, read from YAML and `key=value`."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
