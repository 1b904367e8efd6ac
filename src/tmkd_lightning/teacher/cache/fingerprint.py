"""Fingerprints of a teacher and of its views: of all that decides its outputs, beside the images."""

import copy
import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tmkd_lightning.feature_extraction.ensemble import Ensemble
from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.teacher.cache.array_file import CacheError
from tmkd_lightning.utils.files import sha256_of
from tmkd_lightning.utils.fingerprint import fingerprint
from tmkd_lightning.views import MultiView, View

_SIDES = (64, 32, 224, 96, 128, 256, 299, 384)  # of probe images in pixels; a network runs on the first that it takes


def teacher_fingerprint(teacher: Extractor, checkpoint: str | None) -> dict[str, Any]:
    """Plain values that decide a teacher's outputs; of weights that a checkpoint will replace, its bytes count."""
    if isinstance(teacher, Ensemble):
        members = [teacher_fingerprint(member, None) for member in teacher.members]
        return {"name": teacher.name, "average": teacher.average, "members": members}
    state = teacher.network.state_dict()
    return {
        "name": teacher.name,
        "network": _network_fingerprint(teacher),
        "dtypes": sorted({str(value.dtype) for value in state.values() if isinstance(value, Tensor)}),
        "weights": fingerprint(state, "the teacher") if checkpoint is None else sha256_of(Path(checkpoint)),
        "head": teacher.named_head,
        "feature_map": teacher.named_map,
        "mean": teacher.mean.flatten().tolist(),
        "std": teacher.std.flatten().tolist(),
        "image_size": teacher.image_size,
    }


def views_fingerprint(views: MultiView) -> list[list[str]]:
    """For each view its name, a fingerprint of its function, and one of what it makes of the probe images."""
    return [[view.name, fingerprint(view.function, f"view {view.name!r}"), _seen_by(view)] for view in views.views]


def _seen_by(view: View) -> str:
    """Fingerprint of a view of the probe images; CacheError if the view draws random numbers."""
    images = _probe_images(_SIDES[0])
    with torch.random.fork_rng(devices=[]):
        # rounded to 8 bits: machines differ in the last digit
        once, again = (view(images).mul(255).round().byte().numpy().tobytes() for _ in range(2))
    if once != again:
        raise CacheError(f"view {view.name!r} makes another image each time: leave TeacherCache or the view out")
    return hashlib.sha256(once).hexdigest()


def _probe_images(side: int) -> Tensor:
    """Waves of every length in three colours, which have edges of all directions; and their dark negatives."""
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    waves = [torch.sin(row * column / 40 + row * a / 7 + column * b / 5) for a, b in ((1, 0), (0, 1), (1, 1))]
    image = torch.stack(waves) / 2 + 0.5
    return torch.stack([image, (1 - image) / 4])


def _network_fingerprint(teacher: Extractor) -> list[str]:
    """What the network holds, and what a float64 copy of it with made-up weights answers, as its own may come later."""
    hooked = [layer for layer in teacher.network.modules() if layer._forward_pre_hooks]
    computed = [part for layer in hooked for part in vars(layer).values() if isinstance(part, Tensor)]
    copies = {id(part): part.detach().clone() for part in computed}
    probed = copy.deepcopy(teacher, dict(copies)).cpu().double().eval()
    probed.remove_hooks()
    generator = torch.Generator().manual_seed(0)
    state = probed.network.state_dict()
    probed.network.load_state_dict({name: _made_up(value, generator) for name, value in state.items()})
    ignored = [*probed.network.state_dict(keep_vars=True).values(), *copies.values()]
    return [fingerprint((type(teacher), probed.network), "the teacher", ignored), _answers(probed)]


def _made_up(value: Any, generator: torch.Generator) -> Any:
    """Random weights of the same shape, so small that no layer overflows; integers and other states as they are."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    drawn = torch.rand(value.shape, generator=generator, dtype=value.dtype)
    return drawn + 0.5 if value.ndim < 2 else (drawn - 0.5) * 3 / max(1, value[:1].numel()) ** 0.5


@torch.no_grad()
def _answers(teacher: Extractor) -> str:
    """Fingerprint of the logits of probe images, to five digits: machines differ in the last ones."""
    for side in _SIDES:
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                logits = teacher.network(teacher.normalize(_probe_images(side)))
            return hashlib.sha256(" ".join(f"{x:.5g}" for x in logits.flatten().tolist()).encode()).hexdigest()
        except Exception:  # whatever a network raises on images of another size than its own
            continue
    return "runs on no probe image"
