"""What holds for every loss: gradients into both arguments, full precision under autocast, refused shapes."""

from functools import partial

import pytest
import torch
from torch import Tensor

from helpers.golden_values import HALVES, Loss, check_autocast, check_gradients, check_nothing, fill
from tmkd_lightning.losses import (
    attention_transfer,
    class_attention,
    crd,
    dist,
    dkd,
    feature_kl,
    hcl,
    hint,
    logit_kl,
    nkd,
    nst,
    pkt,
    queue_kl,
    rkd_angle,
    rkd_distance,
    similarity_preserving,
    srrl,
    tekap_kl,
    text_contrast,
    ttm,
    vid,
    vkd,
    wttm,
)

LOGITS, TARGETS = fill((4, 10), 0.1, 3), fill((4, 10), 1.3, 3)
EMBEDDINGS = fill((4, 6), 0.2, 1), fill((4, 8), 0.9, 1)
MAPS = fill((4, 3, 4, 4), 0.3, 1), fill((4, 5, 5, 3), 1.1, 1)
CAMS = fill((2, 3, 5, 3), 0.1, 2), fill((2, 3, 4, 4), 1.1, 2)
NOISE = torch.stack([fill((4, 10), phase, 1) for phase in (2.0, 3.0, 4.0)]).float()  # as the distiller draws it
QUEUE = torch.nn.functional.normalize(fill((6, 10), 0.5, 1))
LABEL = torch.tensor([1, 3, 0, 2])
LOSSES: dict[str, tuple[Loss, Tensor, Tensor]] = {
    "logit_kl": (partial(logit_kl, temperature=4.0), LOGITS, TARGETS),
    "feature_kl": (partial(feature_kl, temperature=4.0), LOGITS, TARGETS),
    "tekap_kl": (partial(tekap_kl, temperature=4.0, noise=NOISE), LOGITS, TARGETS),
    "text_contrast": (partial(text_contrast, label=LABEL, temperature=0.07), LOGITS, TARGETS),
    "queue_kl": (partial(queue_kl, queue=QUEUE, temperature=0.07), LOGITS, TARGETS),
    "rkd_distance": (rkd_distance, *EMBEDDINGS),
    "rkd_angle": (rkd_angle, *EMBEDDINGS),
    "similarity_preserving": (similarity_preserving, fill((4, 3, 2, 2), 0.3, 1), fill((4, 5, 2, 2), 1.1, 1)),
    "class_attention": (partial(class_attention, resolution=2, normalize=False), *CAMS),
    "class_attention_normalized": (partial(class_attention, resolution=2, normalize=True), *CAMS),
    "logit_kl_standardized": (partial(logit_kl, temperature=2.0, standardize=True), LOGITS, TARGETS),
    "dkd": (partial(dkd, label=LABEL, alpha=1.0, beta=8.0, temperature=4.0), LOGITS, TARGETS),
    "nkd": (partial(nkd, label=LABEL, gamma=1.5, temperature=1.0), LOGITS, TARGETS),
    "dist": (partial(dist, beta=1.0, gamma=2.0, temperature=4.0), LOGITS, TARGETS),
    "ttm": (partial(ttm, power=0.1), LOGITS, TARGETS),
    "wttm": (partial(wttm, power=0.2), LOGITS, TARGETS),
    "pkt": (pkt, *EMBEDDINGS),
    "attention_transfer": (attention_transfer, *MAPS),
    "nst": (nst, *MAPS),
    "hcl": (hcl, fill((2, 3, 5, 6), 0.3, 1), fill((2, 3, 5, 6), 1.1, 1)),
    "hint": (hint, fill((2, 3, 5, 6), 0.3, 1), fill((2, 3, 4, 4), 1.1, 1)),
    "vid": (partial(vid, log_scale=fill((3,), 0.4, 2)), fill((2, 3, 5, 6), 0.3, 1), fill((2, 3, 4, 4), 1.1, 1)),
    "crd": (partial(crd, images=30), LOGITS, TARGETS),
    "nst_of_large_maps": (nst, fill((2, 3, 9, 9), 0.3, 1), fill((2, 4, 9, 9), 1.1, 1)),
    "vkd": (partial(vkd, projection=fill((8, 6), 0.4, 1)), *EMBEDDINGS),
    "srrl": (partial(srrl, head_weight=fill((3, 6), 0.4, 1)), EMBEDDINGS[0], fill((4, 6), 0.9, 1)),
}
EVERY = pytest.mark.parametrize("name", LOSSES)
TEMPERED = [name for name, (loss, *_) in LOSSES.items() if "temperature" in getattr(loss, "keywords", {})]
OF_LOGITS = [name for name in (*TEMPERED, "ttm", "wttm") if name != "text_contrast"]


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "nkd"])  # a part of it is detached
def test_gradients_of_both_arguments(name: str) -> None:
    check_gradients(*LOSSES[name])


@EVERY
@pytest.mark.parametrize("half", HALVES)
def test_autocast(name: str, half: torch.dtype) -> None:
    check_autocast(*LOSSES[name], half)


@EVERY
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64])
def test_types(name: str, dtype: torch.dtype) -> None:
    """Half precision is computed in float32, and misses nothing but its own rounding."""
    loss, student, teacher = LOSSES[name]
    value = loss(student.to(dtype), teacher.to(dtype))
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    exact = loss(student.to(dtype).double(), teacher.to(dtype).double())
    torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", OF_LOGITS)
@pytest.mark.parametrize("shape", [(4, 9), (3, 10), (1, 10), (4, 1)])  # the last two would broadcast
def test_wrong_shapes(name: str, shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"student .* and teacher \(4, 10\) must have one shape"):
        LOSSES[name][0](torch.zeros(shape), TARGETS)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("name", TEMPERED)
def test_wrong_temperature(name: str, temperature: float) -> None:
    loss, student, teacher = LOSSES[name]
    with pytest.raises(ValueError, match="temperature must be above 0"):
        loss(student, teacher, temperature=temperature)


@pytest.mark.parametrize(
    ("loss", "shape"), [(rkd_distance, (5,)), (rkd_angle, (5,)), (similarity_preserving, (4, 3, 3))]
)
def test_relations_are_those_of_the_same_samples_and_one_has_none(loss: Loss, shape: tuple[int, ...]) -> None:
    check_nothing(loss, torch.randn(1, *shape), torch.randn(1, *shape))
    with pytest.raises(ValueError, match="student has 3 samples and teacher 4: relations need the same ones"):
        loss(torch.zeros(3, *shape), torch.zeros(4, *shape))
