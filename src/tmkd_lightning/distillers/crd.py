"""Contrastive representation distillation with memory banks of all training images (Tian et al. 2020)."""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tmkd_lightning.distillers.base import Distiller, Unbuilt
from tmkd_lightning.feature_extraction.output import Output, Part
from tmkd_lightning.feature_extraction.spec import Spec
from tmkd_lightning.losses.crd import crd
from tmkd_lightning.utils.distributed import gather_batches
from tmkd_lightning.utils.validation import check_count, check_positive, check_share, check_term, check_weight

_BANKS = ("student_bank", "teacher_bank", "classes")


class CRD(Distiller):
    """Tells each image from others by the other network's embeddings of earlier epochs, both ways.

    A linear layer brings each network's embedding to `width` dimensions and length 1. Two banks hold one for every
    training image; after its loss, a batch moves its rows there by `momentum`. Negatives are drawn, with replacement,
    from the images of other classes; images that no epoch has shown yet are random directions, and count as such.

    Banks, classes and normalizers are buffers: resuming is exact, and on several devices all embeddings enter the banks
    of each, which stay the same; batches must be equally large on all of them.

    Args:
        negatives: number m of images that each is told from.
        width: of the embeddings that are compared.
        temperature: τ, above 0.
        momentum: share of a row that stays, from 0 to 1.
        weight: factor of the loss, at least 0.
        name: name of the term in logs.

    Attributes:
        student_bank: embeddings ``(N, width)`` of N training images; empty before the data are known.
        teacher_bank: likewise.
        classes: of those images, ``(N,)``; -1 for what has not been seen.
        log_z: logarithms of both normalizers Z, from the first batch; NaN before.

    Source: Tian et al. 2020; defaults, Z of the first batch and the momentum as in their code, which knows the classes
    from the beginning and draws without replacement where there are enough.

    Example:
        >>> distiller = CRD(negatives=4)
        >>> specs = (Spec(2, embedding_dim=dim, training_images=10) for dim in (3, 5))
        >>> distiller.build(*specs)
        >>> distiller.set_index(torch.tensor([7, 2]))
        >>> student, teacher = (Output(torch.zeros(2, 2), torch.rand(2, dim)) for dim in (3, 5))
        >>> distiller(student, teacher, torch.tensor([0, 1]))["crd"].item() > 0
        True
        >>> distiller.classes.tolist()
        [-1, -1, 1, -1, -1, -1, -1, 0, -1, -1]
    """

    reads: frozenset[Part] = frozenset({"embedding"})
    reads_logits = False
    needs_class = True
    needs_index = True
    replicated = (*_BANKS, "log_z")
    student_bank: Tensor
    teacher_bank: Tensor
    classes: Tensor
    log_z: Tensor

    def __init__(
        self,
        negatives: int = 16384,
        width: int = 128,
        temperature: float = 0.07,
        momentum: float = 0.5,
        weight: float = 0.8,
        name: str = "crd",
    ) -> None:
        super().__init__()
        self.negatives = check_count("negatives", negatives)
        self.width = check_count("width", width)
        self.temperature = check_positive("temperature", temperature)
        self.momentum = check_share("momentum", momentum)
        self.weight = check_weight("weight", weight)
        self.name = check_term(name)
        self.dims: tuple[int, int] | None = None
        self.student_embedding: nn.Module = Unbuilt(self.method_name)
        self.teacher_embedding: nn.Module = Unbuilt(self.method_name)
        self._make_banks(0)
        self.register_buffer("log_z", torch.full((2,), math.nan))
        self.index: Tensor | None = None
        self._normalized = False

    def build(self, student: Spec, teacher: Spec) -> None:
        """Makes the layers, and the banks once the number of training images is known; see `Distiller`."""
        dims, images = (student.embedding_dim, teacher.embedding_dim), student.training_images
        if dims[0] is None or dims[1] is None:
            raise ValueError("CRD reads embeddings, which one of the two networks does not have")
        if self.dims is None:
            self.dims = dims[0], dims[1]
            self.student_embedding, self.teacher_embedding = (nn.Linear(dim, self.width) for dim in self.dims)
        elif dims != self.dims:
            raise ValueError(
                f"CRD was built for embeddings {self.dims} wide, of student and teacher, but they are {dims}: make a "
                "new CRD for each pair of networks"
            )
        if images is not None and len(self.classes) != images:
            if len(self.classes):
                raise ValueError(
                    f"CRD remembers {len(self.classes)} training images, but the data have {images}: make a new CRD "
                    "for other data"
                )
            self._make_banks(images)

    def set_index(self, index: Tensor) -> None:
        """Takes the places ``(B,)`` of a batch's images among all training images."""
        self.index = index

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``crd``, and moves the batch's rows of the banks; see `Distiller`."""
        embeddings = (
            _unit(self.student_embedding, student.require("embedding")),
            _unit(self.teacher_embedding, teacher.require("embedding")),
        )
        index = self._known_index(len(label)).to(label.device)
        rows = torch.cat([index[:, None], self.draw(label)], dim=1)
        with torch.autocast(label.device.type, enabled=False):  # each against the bank of the other, as it is now
            scores = [
                (one @ bank.to(one.dtype, copy=True).T).gather(1, rows) / self.temperature
                for one, bank in zip(embeddings, (self.teacher_bank, self.student_bank), strict=True)
            ]
        images = len(self.classes)
        if not self._normalized:
            self._normalize_by_first(scores, images)
        loss = crd(scores[0] - self.log_z[0], scores[1] - self.log_z[1], images)
        self._remember(index, *embeddings, label)
        return {self.name: self.weight * loss}

    def draw(self, label: Tensor) -> Tensor:
        """Places ``(B, m)`` of images of other classes, uniform; without waiting for the device."""
        classes, order = self.classes.sort(stable=True)
        first, end = (torch.searchsorted(classes, label.contiguous(), right=right) for right in (False, True))
        others = len(classes) - (end - first)
        drawn = (torch.rand(len(label), self.negatives, device=label.device) * others[:, None]).long()
        drawn = torch.where(drawn >= first[:, None], drawn + (end - first)[:, None], drawn)
        return order[drawn.clamp(max=len(classes) - 1)]

    def _known_index(self, batch: int) -> Tensor:
        if self.index is None or len(self.index) != batch or len(self.classes) == 0:
            raise RuntimeError(
                "CRD must know which of how many training images a batch holds: call build with a Spec that has "
                "training_images, and set_index before each step, as TMKDModule does"
            )
        return self.index

    @torch.no_grad()
    def _normalize_by_first(self, scores: list[Tensor], images: int) -> None:
        """Sets Z where it is not known: N times the mean of ``exp(s / τ)`` over the first batch of all processes."""
        mean = torch.stack([one.flatten().logsumexp(0) - math.log(one.numel()) for one in scores]).to(self.log_z.dtype)
        (parts,) = gather_batches(mean[None])
        found = parts.logsumexp(0) - math.log(len(parts)) + math.log(images)
        self.log_z.copy_(torch.where(self.log_z.isnan(), found, self.log_z))  # a checkpoint's stays
        self._normalized = True

    @torch.no_grad()
    def _remember(self, index: Tensor, student: Tensor, teacher: Tensor, label: Tensor) -> None:
        dtype = self.student_bank.dtype
        index, label, student, teacher = gather_batches(index, label, student.to(dtype), teacher.to(dtype))
        # of an image that is there twice, the last counts, on every device alike
        same = (index[:, None] == index) * torch.arange(1, len(index) + 1, device=index.device)
        last = same.argmax(1)
        for bank, embedding in ((self.student_bank, student), (self.teacher_bank, teacher)):
            new = embedding[last]
            bank.index_copy_(0, index, F.normalize(bank[index] * self.momentum + new * (1 - self.momentum)))
        self.classes.index_copy_(0, index, label[last])

    def _make_banks(self, images: int) -> None:
        """Random rows, the same in every process."""
        fixed = torch.Generator().manual_seed(0)
        side = math.sqrt(3 / self.width)
        for name in _BANKS[:2]:
            rows = (2 * torch.rand(images, self.width, generator=fixed) - 1) * side
            self.register_buffer(name, rows.to(getattr(self, name, rows).device))
        classes = torch.full((images,), -1)
        self.register_buffer("classes", classes.to(getattr(self, "classes", classes).device))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        """Takes banks as they are where the data are not known yet."""
        saved = state_dict.get(f"{prefix}classes")
        if saved is not None and len(self.classes) == 0:
            self._make_banks(len(saved))
        self._normalized = False  # a checkpoint of before the first batch, as the LearningRateFinder loads, has no Z
        super()._load_from_state_dict(state_dict, prefix, *args)


def _unit(layer: nn.Module, embedding: Tensor) -> Tensor:
    """Embeddings ``(B, width)`` of length 1, in float32 or better; those of a fused or a half-precision teacher fit."""
    embedding = layer(embedding.to(cast(nn.Linear, layer).weight.dtype))
    return F.normalize(embedding.to(torch.promote_types(embedding.dtype, torch.float32)))
