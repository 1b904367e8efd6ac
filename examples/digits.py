# %% [markdown]
# # A notebook: digits from data to export
#
# A large network, the teacher, trains a small one, the student, on bundled handwritten digits: nothing is downloaded.
# The notebook trains the student in three ways, alone, with knowledge distillation (KD) and with text-guided multi-view
# distillation (TMKD), and looks at what comes out.
#
# The notebook is a Python file, `examples/digits.py`. [jupytext](https://jupytext.readthedocs.io) opens it in Jupyter,
# and it runs as a script too; files go to `runs/notebook`. What stands below the cells in the documentation is what
# they gave when `make notebook` ran them.

# %%
# %matplotlib inline
import logging
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger

from tmkd_lightning import PAPER, ClassifierModule, Extractor, MultiView, TMKDModule
from tmkd_lightning.callbacks import PromptEmbeddings
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.distillers import KD
from tmkd_lightning.export import export_student
from tmkd_lightning.export.report import compare, to_markdown
from tmkd_lightning.figures import (
    OutputCollector,
    plot_cam,
    plot_curves,
    plot_tsne,
    plot_views,
    read_history,
    save_figures,
)
from tmkd_lightning.models import WideResNet
from tmkd_lightning.text import HashingTextEncoder

RUNS = Path("runs/notebook")
torch.set_num_threads(1)  # for networks this small, handing work to a second thread costs what it gains
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # without Lightning's lines on devices
warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # of Lightning, about torch's newest names

# %% [markdown]
# ## Data
#
# A datamodule gives batches of images, uint8 or in [0, 1], and labels. The teacher learns from all 899 training digits,
# the students get 100 of them, so that there is something to gain. Validation has 299 digits, the test 599.

# %%
many = DigitsDataModule(image_size=16)
few = DigitsDataModule(image_size=16, train_samples=100)
few.setup("fit")
images, labels = next(iter(few.train_dataloader()))
print(images.shape, images.dtype, f"{images.min()} to {images.max()}")
print([few.class_names[label] for label in labels[:8]])

# %% [markdown]
# ## Three views
#
# In TMKD the teacher sees each image three times: as it is, with its edges drawn in, and with its high frequencies
# amplified. `View` makes [views of your own](../docs/extending.md#a-view).


# %% name="views" alt="Three digits, each plain, with its edges drawn in, and with its high frequencies amplified"
def show(figure, name):
    """Saves a figure; a notebook shows what the last call of a cell returns."""
    save_figures({RUNS / f"{name}.png": figure})
    return figure


images, labels = next(iter(few.val_dataloader()))
digits = OutputCollector({}, few.class_names, examples=3)  # no networks yet
digits.update(images / 255, labels)
show(plot_views(digits.compute(), MultiView()), "views")

# %% [markdown]
# ## The teacher
#
# A frozen teacher is asked about all three views, so it should know them: each training image is seen in one view,
# drawn by `view_shares`. Any classifier will do; this is a wide residual network of 16 layers.


# %%
def sgd(params):
    return torch.optim.SGD(params, lr=0.05, momentum=0.9, weight_decay=5e-4)


def train(module, data, name, epochs, callbacks=()):
    """Trains, logs to a CSV file, and returns top-1 on the test digits after the last epoch."""
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[*callbacks],
        logger=CSVLogger(RUNS, name),
        log_every_n_steps=4,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,  # leave this out to see one
    )
    trainer.fit(module, datamodule=data)
    return trainer.test(module, datamodule=data, verbose=False)[0]["test/top1"]


seed_everything(0, verbose=False)
teacher = WideResNet(depth=16, widen_factor=2, num_classes=10)
lessons = ClassifierModule(teacher, views=["rgb", "edge", "high_frequency"], view_shares=[0.4, 0.3, 0.3], optimizer=sgd)
top1 = {"teacher": train(lessons, many, "teacher", epochs=8)}
print(f"teacher: {top1['teacher']:.1%} of the test digits")

# %% [markdown]
# ## The student alone
#
# What the student reaches without a teacher is what a method has to beat. The seed is set before each student is made,
# so all start from the same weights.


# %%
def make_student():
    seed_everything(0, verbose=False)
    return WideResNet(depth=10, widen_factor=1, num_classes=10)


alone = ClassifierModule(make_student(), optimizer=sgd)
top1["student alone"] = train(alone, few, "alone", epochs=40)
print(f"student alone: {top1['student alone']:.1%}")

# %% [markdown]
# ## KD
#
# `TMKDModule` holds both networks and freezes the teacher. Without terms of its own it is the base method and nothing
# else. KD compares logits at a temperature; [twenty others](../docs/methods/index.md) go in its place.

# %%
kd = TMKDModule(teacher, make_student(), distiller=KD(), feature_weight=0, optimizer=sgd)
top1["KD"] = train(kd, few, "kd", epochs=40)
print(f"KD: {top1['KD']:.1%}")

# %% [markdown]
# ## The default
#
# By default a strong loss between the embeddings stands beside the method, which was ahead of KD with small students
# from random weights, and not with one from ImageNet ([results](../docs/results.md)).

# %%
default = TMKDModule(teacher, make_student(), distiller=KD(), optimizer=sgd)
top1["default"] = train(default, few, "default", epochs=40)
print(f"default: {top1['default']:.1%}")

# %% [markdown]
# ## TMKD
#
# Now the teacher sees three views, as in the paper. Texts on the classes determine the weight of each view, and the
# student is also trained towards them.
#
# `HashingTextEncoder` stands in for CLIP here: it needs no download, and its embeddings have **no visual meaning**. Two
# names are close where they share letters, not where the digits look alike. So this shows how TMKD runs, and not what
# it is worth; without the callback, CLIP encodes the texts.

# %%
tmkd = TMKDModule(teacher, make_student(), distiller=KD(), optimizer=sgd, **PAPER)
top1["TMKD"] = train(tmkd, few, "tmkd", epochs=40, callbacks=[PromptEmbeddings(HashingTextEncoder())])
print(f"TMKD: {top1['TMKD']:.1%}")

# %% [markdown]
# ## What came out

# %%
print("599 test digits    top-1   mistakes")
for name, value in top1.items():
    print(f"{name:<15}{value:>9.1%}{round(599 * (1 - value)):>11}")

# %% [markdown]
# **One seed says little.** With seeds 1 and 2 for the students, and the same teacher, the student alone reached 82.8 %
# and 80.0 %, KD 87.1 % and 89.8 %, the default 90.2 % and 91.3 %, TMKD 87.0 % and 90.5 %. A teacher helped in all
# three, and the default was ahead of KD in all three; which of it and TMKD is ahead depends on the seed.
# To say that one method is better takes more seeds and an interval of the gain: [Tables](../docs/tables.md) runs and
# counts them, and [Results](../docs/results.md) has such a study.
#
# ## What did I gain?
#
# The student beside its teacher: size, multiply-accumulate operations (MACs), latency on this machine, accuracy.
# Wide quartiles of a latency mean that something else was running.

# %%
print(to_markdown(compare(default, image_size=16, batch_sizes=[1, 32], data=few, accelerator="cpu")))

# %% [markdown]
# ## Figures
#
# Class activation maps: where each network finds its evidence for the true class.

# %% name="cam" alt="Class activation maps of the four students and the teacher over three test digits"
students = {"TMKD": tmkd, "default": default, "KD": kd, "alone": alone}
networks = {name: module.extractor for name, module in students.items()} | {"teacher": Extractor(teacher)}
collector = OutputCollector(networks, few.class_names, examples=3)
for images, labels in few.test_dataloader():
    collector.update(images / 255, labels)
collected = collector.compute()
show(plot_cam(collected), "cam")

# %% [markdown]
# t-SNE of what enters the last layer. Only neighbourhoods mean something: sizes of clusters and distances between them
# do not.

# %% name="tsne" alt="t-SNE of the embeddings of the test digits, of the four students and the teacher"
show(plot_tsne(collected), "tsne")

# %% [markdown]
# The weights of the views that the texts lead to, and the accuracy of the students while they train.

# %% name="curves" alt="Weights of the three views, and validation accuracy of the four students, over the epochs"
histories = {name: read_history(RUNS / name.lower()) for name in students}
show(plot_curves(histories), "curves")

# %% [markdown]
# ## Export
#
# What you ship is the student alone, with its normalisation inside: no teacher, no text encoder, no Lightning. The file
# is run before it gets its name, and compared with the module. This one opens with PyTorch; `format="onnx"` writes
# ONNX.

# %%
student = RUNS / "student.pt2"
metadata = export_student(default, student, format="torch_export", image_size=16, class_names=few.class_names)
network = torch.export.load(student).module()
right = sum((network(images / 255).argmax(1) == labels).sum().item() for images, labels in few.test_dataloader())
print(f"{student.stat().st_size / 1e3:.0f} kB, for images as {metadata['input']}; {right} of 599 test digits right")

# %% [markdown]
# ## What next
#
# - Your own images, networks and settings: [Tutorial](../docs/tutorial.md), from Python or from a YAML file.
# - Your own training script: [Into an existing project](../docs/existing_project.md).
# - Another method: [which one](../docs/methods/index.md).
# - CLIP or DINOv2 as the teacher: [Zero-shot and hub teachers](../docs/zero_shot.md), [Foundation
#   teachers](../docs/foundation_teachers.md).
# - This report as a page, with the most confident mistakes: [A page to look at](../docs/export.md#a-page-to-look-at).
# - What each part does: [Concepts](../docs/concepts.md).
