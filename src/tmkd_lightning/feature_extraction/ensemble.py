"""Several classifiers as one: their answers averaged."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.feature_extraction.map_discovery import MapLayer
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.text.class_names import ClassList
from tmkd_lightning.utils.precision import at_least_float32

Average = Literal["probabilities", "logits"]


class Ensemble(Extractor):
    """Averages the answers of several classifiers; as a teacher, one that is better than any of them.

    Each member normalises and resizes images as it needs. Embedding, feature map and head weight are those of the first
    member, so the averaged logits are not ``head(embedding)``: methods that read embeddings or maps learn those from
    the first member alone, and the logits from all. A `TeacherCache` stores logits beside embeddings.

    Args:
        members: classifiers from normalised images to logits ``(B, K)``, or Extractors around them; all of the same
            classes in the same order.
        average: ``probabilities`` takes the mean of the members' softmax probabilities, and its logarithm for logits;
            ``logits`` the mean of their logits, which is the geometric mean of their probabilities, normalised.

    Raises:
        ValueError: there are no members, or they have different classes.
        TypeError: a member is a module around an Extractor; pass its ``extractor``.

    Source: Hinton et al. 2015, Sec. 1, which takes either mean; Lakshminarayanan et al. 2017, Sec. 2.4, that of
    the probabilities, which is the default.

    Example:
        >>> yes, no = (nn.Sequential(nn.Flatten(), nn.Linear(3, 2)) for _ in range(2))
        >>> for network, logits in ((yes, [math.log(3), 0.0]), (no, [0.0, 0.0])):
        ...     _ = network.requires_grad_(False)[1].weight.zero_(), network[1].bias.copy_(torch.tensor(logits))
        >>> Ensemble([yes, no])(torch.zeros(1, 3, 1, 1)).logits.softmax(1)  # of 3/4 and 1/2
        tensor([[0.6250, 0.3750]])
    """

    network: "_Members"
    logits_of_head = False

    def __init__(self, members: Sequence[nn.Module], average: Average = "probabilities") -> None:
        if average not in ("probabilities", "logits"):
            raise ValueError(f"average must be 'probabilities' or 'logits', got {average!r}")
        if not isinstance(members, (list, tuple, nn.ModuleList)) or len(members) == 0:
            got = "an empty one" if isinstance(members, (list, tuple, nn.ModuleList)) else f"a {type(members).__name__}"
            raise ValueError(f"members must be a list of at least one network, got {got}")
        for each in members:
            if not isinstance(each, Extractor) and any(isinstance(child, Extractor) for child in each.children()):
                raise TypeError(
                    f"a member of an Ensemble is a {type(each).__name__}, which normalises images by itself: pass the "
                    "Extractor in it, module.extractor"
                )
        extractors = [each if isinstance(each, Extractor) else Extractor(each) for each in members]
        if len({each.num_classes for each in extractors}) > 1:
            for each in extractors:
                each.measure_classes()  # the width of the last linear layer need not be their number
        classes = [each.num_classes for each in extractors]
        if len(set(classes)) > 1:
            listed = ", ".join(f"{each.name} {count}" for each, count in zip(extractors, classes, strict=True))
            raise ValueError(f"the members of an Ensemble must have the same classes, but their numbers are: {listed}")
        named = [ClassList(f"member {each.name}", each.class_names) for each in extractors if each.class_names]
        for other in named[1:]:
            if not other.same(named[0]):
                raise ValueError(f"the members of an Ensemble name their classes otherwise: {named[0].against(other)}")
        identity = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        super().__init__(_Members(extractors, average), *identity, num_classes=classes[0])
        self.class_names = list(named[0].names) if named else None
        self.statistics_source = "as each member normalises its own images"
        for each in extractors[1:]:
            each.keep_map = each.keep_maps = False
        self._adopt_layers()

    @staticmethod
    def _check_network(network: object) -> None:
        """Nothing: the members hold Extractors."""

    @property
    def members(self) -> list[Extractor]:
        """The networks, each as a source of outputs."""
        return self.network.extractors

    @property
    def average(self) -> Average:
        """What is averaged."""
        return self.network.average

    @property
    def knows_classes(self) -> bool:
        """Whether all members' logits say something: zeros among them would change the average."""
        return all(member.knows_classes for member in self.members)

    @property
    def confirmed(self) -> bool:
        """Whether the head and map of all members have been checked on real images."""
        self._pass_on()
        return all(member.confirmed for member in self.members)

    @property
    def weight_dtype(self) -> torch.dtype:
        """What logits are averaged in: float32, or wider if a member is; each member runs in its own precision."""
        wide = any(member.weight_dtype == torch.float64 for member in self.members)
        return torch.float64 if wide else torch.float32

    def forward(self, image: Tensor, checked: bool = False) -> Output:
        """Runs all members on un-normalised images ``(B, 3, H, W)``, uint8 or float in [0, 1]."""
        self._pass_on()
        outputs = [member(image, checked=checked or count > 0) for count, member in enumerate(self.members)]
        self._adopt_layers()
        first = outputs[0]
        logits = self.network.mean([each.logits for each in outputs])
        return Output(logits, first.embedding, first.feature_map, first.head_weight, first.maps)

    def confirm(self, image: Tensor) -> None:
        """Finds head and map of each member on a few images, as the first `forward` does."""
        self._pass_on()
        for member in self.members:
            member.confirm(image)
            if member.num_classes != self.num_classes:
                raise ValueError(
                    f"{member.name} gives {member.num_classes} logits, but the Ensemble has {self.num_classes} classes"
                )
        self._adopt_layers()

    def pixels(self, image: Tensor) -> int:
        """Pixels of one image ``(B, 3, H, W)`` as the member that sees most of them does."""
        return max(member.pixels(image) for member in self.members)

    def compile_network(self, whole: bool) -> None:
        """Compiles the confirmed members in place: the whole, or the parts that were compiled when they were passed."""
        for member in self.members:
            member.compile_network(whole)

    def share_hooks(self) -> None:
        """Leaves the hooks on the members: compiled code must find the same ones at every forward."""
        for member in self.members:
            member.share_hooks()

    def remove_hooks(self) -> None:
        """Removes the hooks that compiled code needs."""
        for member in self.members:
            member.remove_hooks()

    def resize_head(self, num_classes: int) -> None:
        """Replaces the heads by fresh ones of K rows, if the members were made for another number of classes."""
        for member in self.members:
            member.resize_head(num_classes)
        if num_classes != self.num_classes:
            self._num_classes, self.class_names = num_classes, None

    def check_reorderable(self) -> None:
        """Raises a ValueError unless each member has a head whose rows can be moved."""
        for member in self.members:
            member.check_reorderable()

    def _take_rows(self, rows: Sequence[int]) -> None:
        for member in self.members:
            member._take_rows(rows)
        self._num_classes, self.class_names = len(rows), self._names_of(rows)

    @property
    def map_layers(self) -> list[MapLayer]:
        """Those of the first member."""
        layers, self._seen_by_maps = self.members[0].map_layers, self.members[0]._seen_by_maps
        return layers

    def match_maps(self, other: Extractor) -> None:
        """Has the first member look for its maps anew, if those of another network were found on a larger image."""
        self.members[0].match_maps(other)

    def _pass_on(self) -> None:
        """Has the first member return the maps that are asked for."""
        self.members[0].keep_map, self.members[0].keep_maps = self.keep_map, self.keep_maps

    def _adopt_layers(self) -> None:
        """Names head and map after the first member's."""
        first, prefix = self.members[0], "members.0.network."
        self.head_name = None if first.head_name is None else prefix + first.head_name
        self.map_name = None if first.map_name is None else prefix + first.map_name
        self._why_no_head = first._why_no_head


class _Members(nn.Module):
    """From images in [0, 1] to the average of what the members say."""

    def __init__(self, members: Sequence[Extractor], average: Average) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.average: Average = average

    def _get_name(self) -> str:
        return "Ensemble"  # in messages, and where modules are printed

    @property
    def extractors(self) -> list[Extractor]:
        return list(self.members)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        """The averaged logits ``(B, K)`` alone, as exported files give them."""
        return self.mean([member.network(member.normalize(image)) for member in self.extractors])

    def mean(self, logits: Sequence[Tensor]) -> Tensor:
        """Averages logits ``(B, K)`` of all members."""
        stacked = torch.stack([at_least_float32(each) for each in logits])
        if self.average == "logits":
            return stacked.mean(0)
        return stacked.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(logits))
