"""A distillation method of your own, with the defaults beside it. Run it as it is."""

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from tmkd_lightning import Output, Spec, TMKDModule
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.distillers import Distiller
from tmkd_lightning.models import wrn_16_2


class Cosine(Distiller):
    """Turns the student's embedding, projected, towards the teacher's, which may be fused from several views."""

    reads = frozenset({"embedding"})  # a network without it is refused before training

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def build(self, student: Spec, teacher: Spec) -> None:
        self.projector = nn.Linear(student.embedding_dim, teacher.embedding_dim)  # trained along with the student

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        projected = self.projector(student.require("embedding"))
        similarity = F.cosine_similarity(projected.float(), teacher.require("embedding").float())
        return {"cosine": self.weight * (1 - similarity).mean()}  # logged as train/cosine


if __name__ == "__main__":
    module = TMKDModule(
        wrn_16_2(num_classes=10),  # your trained teacher; this one is untrained, and the run says so
        wrn_16_2(num_classes=10),
        distiller=Cosine(),
        optimizer=lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9),
    )
    trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False)
    trainer.fit(module, datamodule=DigitsDataModule(train_samples=200, image_size=16))
