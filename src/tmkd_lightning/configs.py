"""Configs in YAML, read without running what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

RESOLVED_CONFIG = "resolved_config.yaml"
"""Name of the file in which the command line leaves a run's config beside its logs."""


def read_config(path: Path) -> dict[str, Any]:
    """Reads a mapping in YAML, UTF-8.

    Args:
        path: the file.

    Returns:
        What it holds: plain types.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no YAML, would run code, or holds no mapping; the message names the file and the cause.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "run.yaml"
        >>> count = path.write_text("seed_everything: 0")
        >>> read_config(path)
        {'seed_everything': 0}
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: other bytes, or a date that is none
        cause = " ".join(str(error).replace('"<unicode string>", ', "").split())
        raise ValueError(f"{path} is not a config that can be read safely: {cause}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not a config: it holds no mapping")
    return config
