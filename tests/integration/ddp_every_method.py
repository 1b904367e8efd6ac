"""Trains by each method in two processes, and writes what student each ended with. Run by test_every_method.py."""

import sys
from pathlib import Path

import torch
from lightning.pytorch import seed_everything
from torch.utils.data import DataLoader

from helpers.tiny import Net, make_images
from integration.ddp_equals_one import trainer
from tmkd_lightning import TMKDModule
from tmkd_lightning.distillers import CATKD, KD, RKD, SP, TeKAP

if __name__ == "__main__":
    students, rank = {}, 0
    methods = {"alone": None, "kd": KD(), "rkd": RKD(), "sp": SP(), "cat_kd": CATKD(), "tekap": TeKAP()}
    for name, method in methods.items():
        seed_everything(0)
        module = TMKDModule(
            Net(16),
            Net(),
            distiller=method,
            fusion="mean",
            text_weight=0,
            feature_weight=0,
            logit_weight=0,
            optimizer=lambda params: torch.optim.SGD(params, lr=0.01),
        )
        run = trainer(2, max_epochs=1)
        run.fit(module, DataLoader(make_images(12), batch_size=3))
        assert run.global_step == 2
        students[name] = {key: value.clone() for key, value in module.student.state_dict().items()}
        rank = run.global_rank
    torch.save(students, Path(sys.argv[1]) / f"rank{rank}.pt")
