"""How plug-ins are known without loading any: what their modules and entry points are called."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

PREFIX = "longtail_plugin_"  # of the names of the modules that files become
GROUPS = ("longtail.methods", "longtail.losses", "longtail.samplers")


def plugins_exist() -> bool:
    """Say whether a file was loaded in this process, or a package with an entry point is installed."""
    loaded = any(name.startswith(PREFIX) for name in sys.modules)
    return loaded or any(entry_points(group=group) for group in GROUPS)
