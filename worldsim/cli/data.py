"""The argument `data=`: one data folder, or several that are read as one.

Here because every command that reads recordings takes it. Leaves out reading (`worldsim.data.episodes`).
"""

from __future__ import annotations

from typing import Any

from omegaconf import ListConfig

from worldsim.data.episodes import EpisodeStore


def open_data(data: Any, mixed: bool = False) -> EpisodeStore:
    """Returns the episodes of `data=`, `mixed` where some may have no actions. Raises ValueError without a folder."""
    folders = list(data) if isinstance(data, ListConfig) else [data]
    if not folders:
        raise ValueError("expected data= a folder or a list of folders, found an empty list")
    return EpisodeStore(*(str(folder) for folder in folders), mixed=mixed)
