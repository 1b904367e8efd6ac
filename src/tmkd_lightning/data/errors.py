"""The error of unusable data."""

from tmkd_lightning.utils.messages import printable


class DataError(ValueError):
    """Data that cannot be used; the message names the file or folder and gives a remedy, without control characters."""

    def __str__(self) -> str:
        return printable(super().__str__())
