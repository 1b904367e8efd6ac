"""The head of a network that came without one."""

from torch import nn


class ProbeHead(nn.Linear):
    """A linear head that is zero, and so knows nothing, until it is fitted.

    Example:
        >>> ProbeHead(4, 3).fitted
        False
    """

    def reset_parameters(self) -> None:
        """Sets weight and bias to zero."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    @property
    def fitted(self) -> bool:
        """Whether its weight is not all zero; reading it waits for the device."""
        return not self.weight.is_meta and bool(self.weight.any())
