"""FitNet: regresses one of the teacher's maps, the hint, from the student's (Romero et al. 2015)."""

from torch import Tensor, nn

from tmkd_lightning.distillers.maps import RegressingDistiller
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.feature_extraction.spec import MapShape
from tmkd_lightning.losses.fitnet import hint
from tmkd_lightning.utils.validation import check_count, check_term, check_weight


class FitNet(RegressingDistiller):
    """Mean squared difference of one pair of maps, the student's through ``ReLU(BN(conv))``.

    The convolution brings the student's map to the teacher's channels. It also halves or doubles a map whose side is
    twice or half the teacher's; else it looks at single pixels, and the larger map is pooled.

    Args:
        weight: factor of the loss, at least 0.
        place: which pair of maps, counted from the last: 1 for the last.
        name: name of the term in logs.

    Source: Romero et al. 2015; regressor and weight are those of RepDistiller and mdistiller, whose default hint is the
    middle of three stages, the second from the end.

    Example:
        >>> import torch
        >>> from tmkd_lightning.feature_extraction.spec import Spec
        >>> method = FitNet(place=1)
        >>> method.build(student=Spec(3, maps=((2, 4, 4),)), teacher=Spec(3, maps=((5, 4, 4),)))
        >>> student, teacher = (Output(torch.zeros(2, 3), maps=(torch.zeros(2, dim, 4, 4),)) for dim in (2, 5))
        >>> round(method(student, teacher, torch.zeros(2))["fitnet"].item(), 3)  # the BatchNorm takes out the bias
        0.0
    """

    min_batch = 2  # maps of one pixel have no statistics for the BatchNorm

    def __init__(self, weight: float = 100.0, place: int = 2, name: str = "fitnet") -> None:
        super().__init__()
        self.weight = check_weight("weight", weight)
        self.place = self.last = check_count("place", place)
        self.name = check_term(name)

    def make_layers(self, pairs: list[tuple[MapShape, MapShape]]) -> nn.Module:
        """Makes the regressor."""
        if len(pairs) < self.place:
            raise ValueError(
                f"FitNet(place={self.place}) compares the maps at place {self.place} from the last, but the networks "
                f"have {len(pairs)} in common: take a smaller place"
            )
        (channels, side, _), (wanted, goal, _) = pairs[0]
        conv: nn.Module = nn.Conv2d(channels, wanted, 1)
        if side == 2 * goal:
            conv = nn.Conv2d(channels, wanted, 3, stride=2, padding=1)
        elif goal == 2 * side:
            conv = nn.ConvTranspose2d(channels, wanted, 4, stride=2, padding=1)
        return nn.Sequential(conv, nn.BatchNorm2d(wanted), nn.ReLU())

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``fitnet``; see `Distiller`."""
        if len(student.logits) < self.min_batch:
            return {self.name: self.zero(student)}
        own, target = self.map_pairs(student, teacher)[0]
        return {self.name: self.weight * hint(self.regressor(own), target)}
