"""What can be wrong with data, named once."""

from __future__ import annotations

from tmkd_lightning.messages import printable


class DataError(ValueError):
    """Data that cannot be used; the message names the file or folder and what would help.

    Names of files are foreign text: what would steer a terminal is escaped.
    """

    def __str__(self) -> str:
        return printable(super().__str__())
