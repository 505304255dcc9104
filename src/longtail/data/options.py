"""Base of all configuration classes: unknown keys are errors, values never change."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

# absolute, so that a run finds its files from any working folder
Place = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]


class Options(BaseModel):
    """Configuration with types and limits, read from YAML and `key=value`."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
