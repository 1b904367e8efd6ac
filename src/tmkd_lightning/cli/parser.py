"""The parser of every verb."""

from __future__ import annotations

import re
from typing import NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from tmkd_lightning.utils.secrets import redact


class Parser(LightningArgumentParser):
    """Lightning's, but errors, which repeat what was given, show no keys and passwords."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Tells what is wrong and exits with status 2."""
        message = re.sub(r"NestedArg\(key='([^']*)', val=", r"NestedArg(\1=", message)
        super().error(redact(message), ex)
