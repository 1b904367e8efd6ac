"""The kernel against the plain version, in Triton's interpreter, which runs it on a CPU."""

import sys
from pathlib import Path

import pytest
import torch
from test_hysteresis import spiral
from torch import Tensor

from helpers import grow_interpreted
from helpers.subprocess_run import run_script
from tmkd_lightning import views
from tmkd_lightning.views.hysteresis import _triton_for, hysteresis

try:
    import tmkd_lightning.views.hysteresis_triton  # noqa: F401
except ImportError as error:  # no Triton, or too old
    pytest.skip(str(error), allow_module_level=True)

SHAPES = [(1, 1, 1), (3, 1, 40), (2, 23, 1), (3, 17, 31), (2, 64, 64), (2, 3, 64), (3, 5, 65), (2, 32, 192)]


def random_masks(shape: tuple[int, ...], density: float) -> tuple[Tensor, Tensor]:
    return torch.rand(shape) < density, torch.rand(shape) < 0.02


def one_pixel_each(height: int, width: int) -> tuple[Tensor, Tensor]:
    """All is weak around the one strong pixel of each image, on both sides of borders of words and of the image."""
    places = [(0, 0), (height - 1, width - 1), (2, 63), (2, 64), (0, 64), (height - 1, 63)]
    strong = torch.zeros(len(places), height, width, dtype=torch.bool)
    for image, (row, column) in enumerate(places):
        strong[image, row, column] = True
    near = torch.nn.functional.max_pool2d(strong.float(), 3, 1, 1) > 0
    return near, strong


def path(gap: int = -1) -> tuple[Tensor, Tensor]:
    """A path of hundreds of steps beside an image in which nothing grows: no fixed number of rounds reaches its end."""
    order = spiral(35)
    weak = torch.stack([(order >= 0) & (order != gap), torch.zeros_like(order, dtype=torch.bool)])
    return weak, (order == 0).expand(2, -1, -1)


@pytest.fixture(scope="module")
def masks() -> dict[str, tuple[Tensor, Tensor]]:
    """Weak and strong pixels by the name of the case."""
    torch.manual_seed(0)
    random = {f"{shape}, {part}": random_masks(shape, part) for shape in SHAPES for part in (0.3, 0.45)}
    others = {"borders": one_pixel_each(5, 130), "full words": one_pixel_each(8, 128), "path": path(), "gap": path(300)}
    return random | others | {"no images": random_masks((0, 8, 8), 0.5)}


@pytest.fixture(scope="module")
def grown(masks, tmp_path_factory) -> dict[str, Tensor]:
    """What the kernel makes of them."""
    source, target = (tmp_path_factory.mktemp("masks") / name for name in ("in.pt", "out.pt"))
    torch.save(masks, source)
    run_script(Path(grow_interpreted.__file__), source, target)
    return torch.load(target)


def test_the_fixed_point_is_that_of_the_plain_version(masks, grown) -> None:
    assert grown.keys() == masks.keys()
    wrong = [name for name, pair in masks.items() if not grown[name].equal(hysteresis(*pair))]
    assert wrong == []


def test_cases_with_an_answer_of_their_own(masks, grown) -> None:
    for name in ("borders", "full words"):
        assert grown[name].equal(masks[name][0])
    order = spiral(35)
    assert grown["path"][0].equal(order >= 0)
    assert grown["gap"][0].equal((order >= 0) & (order < 300))
    assert order.max() > 600


@pytest.mark.filterwarnings("default")
def test_a_device_that_it_cannot_compile_for_is_told_of_once() -> None:
    """Then edges are grown as without Triton."""
    _triton_for.cache_clear()
    with pytest.warns(UserWarning, match="Triton cannot compile for cpu, so exact edges wait for it: "):
        assert _triton_for(torch.device("cpu")) is None
    _triton_for.cache_clear()


def test_without_triton_nothing_is_said(monkeypatch) -> None:
    _triton_for.cache_clear()
    monkeypatch.delattr(views, "hysteresis_triton", raising=False)
    monkeypatch.setitem(sys.modules, "tmkd_lightning.views.hysteresis_triton", None)
    assert _triton_for(torch.device("cpu")) is None
    _triton_for.cache_clear()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", [*SHAPES, (6, 224, 224), (3, 448, 448), (2, 512, 512), (2, 520, 512)])
def test_on_a_gpu(shape: tuple[int, int, int]) -> None:
    """The last one is too large for the kernel."""
    weak, strong = random_masks(shape, 0.4)
    assert hysteresis(weak.cuda(), strong.cuda()).cpu().equal(hysteresis(weak, strong))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_host_does_not_wait() -> None:
    weak, strong = (mask.cuda() for mask in path())
    hysteresis(weak, strong)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        edges = hysteresis(weak, strong)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert edges.equal(weak & weak.flatten(1).any(1)[:, None, None])
