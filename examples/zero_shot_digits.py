"""A student from a zero-shot teacher, without a single label: CLIP in small, on the bundled digits.

    python examples/zero_shot_digits.py

CLIP's weights are too large to be made here, so the script first trains a tiny network of open_clip's on digits and
their names, and saves it as open_clip does. From there on all is as with CLIP itself: `ZeroShotCLIP` classifies by the
class names alone, and a `TMKDModule` distils it on images that have no labels. Prints both top-1 on 599 test digits.
"""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from pathlib import Path

import open_clip
import torch
from lightning.pytorch import Trainer, seed_everything
from safetensors.torch import save_file
from torch.nn import functional as F

from tmkd_lightning import Extractor, TMKDModule
from tmkd_lightning.callbacks import TeacherAccuracyCheck
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.distillers import KD
from tmkd_lightning.models import WideResNet, ZeroShotCLIP

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 64, "head_width": 16, "patch_size": 4},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    data = DigitsDataModule(image_size=16, labelled_samples=0)
    with tempfile.TemporaryDirectory() as folder:
        save_tiny_clip(Path(folder))
        teacher = ZeroShotCLIP("tiny", folder, class_names=data.class_phrases)
        teacher.load_pretrained()
    student = WideResNet(depth=10, widen_factor=1, num_classes=10)
    module = TMKDModule(
        Extractor(teacher),
        student,
        distiller=KD(),
        views=["rgb"],
        feature_weight=0,
        text_weight=0,
        optimizer=lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9, weight_decay=5e-4),
    )
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    check = TeacherAccuracyCheck(0)
    trainer = Trainer(accelerator="cpu", max_epochs=15, limit_val_batches=0, callbacks=[check], **quiet)
    trainer.fit(module, datamodule=data)
    top1 = trainer.test(module, datamodule=data, verbose=False)[0]["test/top1"]
    print(f"zero-shot teacher {accuracy(Extractor(teacher), data):.1%}, student without labels {top1:.1%}")


def save_tiny_clip(folder: Path) -> None:
    """Trains a CLIP of 1.7 million weights, most of them for its vocabulary, on digits, and saves it."""
    clip, tokenize = open_clip.CLIP(**json.loads(json.dumps(TINY))), open_clip.SimpleTokenizer(context_length=16)
    data = DigitsDataModule(image_size=16, batch_size=64)
    tokens = tokenize([f"a photo of a {phrase}." for phrase in data.class_phrases])
    torch.nn.init.normal_(clip.token_embedding.weight, std=0.5)  # or all ten prompts look the same for long
    optimizer = torch.optim.AdamW(clip.parameters(), lr=1e-3)
    data.setup("fit")
    mean, std = (
        torch.tensor(part).view(3, 1, 1) for part in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    for _ in range(20):
        for images, labels in data.train_dataloader():
            image = clip.encode_image((images / 255 - mean) / std, normalize=True)
            text = clip.encode_text(tokens, normalize=True)
            loss = F.cross_entropy(clip.logit_scale.exp() * image @ text.T, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": {}}))
    save_file(clip.state_dict(), folder / "open_clip_model.safetensors")


@torch.no_grad()
def accuracy(network: Extractor, data: DigitsDataModule) -> float:
    data.setup("test")
    right = [(network.eval()(images).logits.argmax(1) == labels) for images, labels in data.test_dataloader()]
    return torch.cat(right).float().mean().item()


if __name__ == "__main__":
    main()
