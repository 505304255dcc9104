"""Whether published weights are at hand: in the cache of the Hugging Face hub, or there within seconds."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

SECONDS = 5.0  # that the hub may take to respond
FILES = ("model.safetensors", "pytorch_model.bin")


def at_hand(name: str, seconds: float = SECONDS) -> bool:
    """Say whether timm's weights of a full name (`resnet50.tv_in1k`) are in the cache, and fetch them if not.

    Args:
        name: With its tag.
        seconds: That the hub may take to respond; not asked where it is off (HF_HUB_OFFLINE=1).
    """
    from huggingface_hub import hf_hub_download

    repository, files = _place(name)
    if not repository:
        return False
    if _cached(repository, files):
        return True
    if not _responds(repository, files[0], seconds):
        return False
    try:
        hf_hub_download(repository, files[0])
    except Exception:
        return False  # by one of many kinds of errors: it broke off, or the disk is full
    return True


def unreachable(name: str, seconds: float = SECONDS) -> bool:
    """Say whether weights of timm would be looked for in the hub in vain, within `seconds`."""
    repository, files = _place(name)
    if not repository or _cached(repository, files):
        return False
    return not _responds(repository, files[0], seconds)


def _place(name: str) -> tuple[str, tuple[str, ...]]:
    """Return the repository of the hub that holds weights of timm, and their files; empty if none does."""
    import timm  # takes seconds

    known = timm.get_pretrained_cfg(name)
    repository = str(known.hf_hub_id or "") if known else ""
    if repository.endswith("/"):
        repository += name
    return repository, (known.hf_hub_filename,) if known and known.hf_hub_filename else FILES


def _cached(repository: str, files: tuple[str, ...]) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(repository, file), str) for file in files)


def _responds(repository: str, file: str, seconds: float) -> bool:
    """Ask the hub for a file; looking up its address may hang, so a thread does and is left alone."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    if constants.HF_HUB_OFFLINE:
        return False
    found: list[Any] = []

    def ask() -> None:
        # whatever kind of error it is: the file is not there
        with suppress(Exception):
            found.append(get_hf_file_metadata(hf_hub_url(repository, file), timeout=seconds))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return bool(found)
