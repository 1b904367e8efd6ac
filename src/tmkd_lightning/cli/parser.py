"""The parser of every verb, and a check of the configs that are given to it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from jsonargparse import ArgumentParser

from tmkd_lightning.utils.configs import load_yaml
from tmkd_lightning.utils.secrets import redact


class Parser(ArgumentParser):
    """jsonargparse's parser, with keys and passwords masked in errors, which repeat what was given."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints the error and exits with status 2."""
        message = re.sub(r"NestedArg\(key='([^']*)', val=", r"NestedArg(\1=", message)
        super().error(redact(message), ex)


def check_configs(words: Sequence[str]) -> None:
    """Raises ValueError for a config, of a run or a part of it, that cannot be read safely; skips missing files."""
    pairs = [*pairwise(words), *(word.split("=", 1) for word in words if "=" in word)]
    for option, value in pairs:
        is_config = option in ("--config", "-c") or (option.startswith("-") and value.endswith((".yaml", ".yml")))
        path = os.path.expanduser(value)
        if is_config and os.path.isfile(path):
            load_yaml(Path(path))
