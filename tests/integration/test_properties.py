"""What must hold for all images, networks and batches, tried on drawn ones; the same ones every time."""

from collections import deque
from functools import partial
from math import sqrt

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.golden_values import HALVES, Loss, gradients
from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.losses import (
    attention_transfer,
    class_attention,
    dkd,
    feature_kl,
    hcl,
    logit_kl,
    nst,
    pkt,
    rkd_angle,
    rkd_distance,
    similarity_preserving,
    tekap_kl,
    text_contrast,
    ttm,
    wttm,
)
from tmkd_lightning.teacher.fusion import WeightNet, fuse
from tmkd_lightning.views.view import BUILT_IN, MultiView, View, edge_view, high_frequency_view

drawn = partial(
    settings,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # that of conftest.py; examples bring their own seeds
)
SEEDS, SIDES = st.integers(0, 2**31), st.integers(1, 9)
FLOATS = st.sampled_from([torch.float32, torch.float64])
WIDE_AND_HALF = st.sampled_from([torch.float32, torch.float64, torch.bfloat16])


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Views


@st.composite
def images(draw: st.DrawFn) -> Tensor:
    """Noise, blocks with long edges, or black and white; of any type that an image may have."""
    shape = draw(st.integers(1, 4)), 3, draw(st.integers(3, 24)), draw(st.integers(3, 24))
    image = torch.rand(shape, generator=generator(draw(SEEDS)), dtype=torch.float64)
    kind = draw(st.sampled_from(["noise", "blocks", "black and white"]))
    if kind == "blocks":
        image = image[..., ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3)[..., : shape[2], : shape[3]]
    if kind == "black and white":
        image = image.round()
    dtype = draw(st.sampled_from([torch.uint8, torch.bfloat16, torch.float32, torch.float64]))
    return (image * 255).round().to(dtype) if dtype == torch.uint8 else image.to(dtype)


NEGATIVE = View("negative", lambda image: 1 - image, "a negative of a {class}")
SUBSETS = st.lists(st.sampled_from([*BUILT_IN, NEGATIVE]), min_size=1, unique=True)


@drawn(max_examples=40)
@given(images(), SUBSETS)
def test_views_are_images_and_each_image_is_seen_by_itself(image: Tensor, names: list[str | View]) -> None:
    views = MultiView(names)
    seen = views(image)
    assert seen.shape == (len(names), *image.shape)
    assert seen.dtype == (torch.float32 if image.dtype == torch.uint8 else image.dtype)
    assert 0 <= seen.min() <= seen.max() <= 1
    assert views(seen[0]).shape == seen.shape
    alone = [views(one[None]) for one in image]
    assert torch.cat(alone, dim=1).equal(seen)
    for view, result in zip(names, seen, strict=True):
        assert MultiView([view])(image)[0].equal(result)


@drawn(max_examples=20)
@given(images(), st.floats(0, 3), st.sampled_from([3, 5]), st.floats(0.3, 3))
def test_high_frequencies_have_no_left_and_no_up(image: Tensor, beta: float, kernel_size: int, sigma: float) -> None:
    view = partial(high_frequency_view, beta=beta, kernel_size=kernel_size, sigma=sigma)
    tolerance = 2e-2 if image.dtype == torch.bfloat16 else 1e-5
    for dims in ([2], [3], [2, 3]):
        torch.testing.assert_close(view(image.flip(dims)), view(image).flip(dims), rtol=0, atol=tolerance)


def slow_canny(image: Tensor, low: float, high: float) -> Tensor:
    """One channel, pixel by pixel."""
    height, width = image.shape

    def pixel(y: int, x: int) -> float:
        return image[min(max(y, 0), height - 1), min(max(x, 0), width - 1)].item()

    def slope(y: int, x: int) -> tuple[float, float]:
        across = sum(w * (pixel(y + d, x + 1) - pixel(y + d, x - 1)) for d, w in ((-1, 1), (0, 2), (1, 1)))
        down = sum(w * (pixel(y + 1, x + d) - pixel(y - 1, x + d)) for d, w in ((-1, 1), (0, 2), (1, 1)))
        return across, down

    def size(y: int, x: int) -> float:
        if not (0 <= y < height and 0 <= x < width):
            return 0.0
        across, down = slope(y, x)
        return sqrt(across**2 + down**2)

    def is_ridge(y: int, x: int) -> bool:
        across, down = slope(y, x)
        here = size(y, x)
        if abs(down) < (sqrt(2) - 1) * abs(across):
            return here > size(y, x - 1) and here >= size(y, x + 1)
        if abs(across) < (sqrt(2) - 1) * abs(down):
            return here > size(y - 1, x) and here >= size(y + 1, x)
        side = 1 if across * down > 0 else -1
        return here > size(y - 1, x - side) and here > size(y + 1, x + side)

    sizes = {(y, x): size(y, x) for y in range(height) for x in range(width) if is_ridge(y, x)}
    found = {place for place, value in sizes.items() if value > high}
    queue = deque(found)
    while queue:
        y, x = queue.popleft()
        for place in [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]:
            if place not in found and sizes.get(place, 0) > low:
                found.add(place)
                queue.append(place)
    return torch.tensor([[float((y, x) in found) for x in range(width)] for y in range(height)])


@drawn(max_examples=20)
@given(SEEDS, st.tuples(SIDES, SIDES), st.integers(2, 8), st.integers(1, 20), st.integers(0, 20), st.floats(0, 2))
def test_edges_pixel_by_pixel(
    seed: int, size: tuple[int, int], shades: int, low: int, above: int, alpha: float
) -> None:
    """Shades are eighths and thresholds odd sixteenths, so that rounding decides nothing."""
    image = torch.randint(shades, (2, 3, *size), generator=generator(seed)) / 8
    thresholds = (2 * low + 1) / 16, (2 * (low + above) + 1) / 16
    edges = torch.stack([slow_canny(channel, *thresholds) for channel in image.flatten(0, 1)]).view_as(image)
    expected = (image + alpha * edges).clamp(0, 1)
    torch.testing.assert_close(edge_view(image, alpha, *thresholds), expected, rtol=0, atol=1e-6)


# Fusion


@st.composite
def taught(draw: st.DrawFn) -> tuple[Output, nn.Linear, Tensor]:
    """A teacher's output of several views as one network gives it, its head, and the weights of each image."""
    random, dtype = generator(draw(SEEDS)), draw(FLOATS)
    views, batch, width, classes, side = (draw(st.integers(1, most)) for most in (5, 6, 8, 7, 3))
    head = nn.Linear(width, classes, dtype=dtype)
    maps = torch.randn(views * batch, width, side, side, generator=random, dtype=dtype)
    embedding = maps.mean((2, 3))
    rows = torch.randn(classes, views * 4, generator=random)
    label = torch.randint(classes, (batch,), generator=random)
    weights = WeightNet(text_dim=4, views=views, hidden=6)(10 * rows)[label].detach()
    return Output(head(embedding).detach(), embedding, maps, head.weight.detach()), head, weights


@drawn(max_examples=40)
@given(taught())
def test_a_fused_teacher_is_between_its_views_and_still_one_network(case: tuple[Output, nn.Linear, Tensor]) -> None:
    output, head, weights = case
    batch, views = weights.shape
    torch.testing.assert_close(weights.sum(1), torch.ones(batch))
    fused = fuse(output, weights)
    for part in ("logits", "embedding", "feature_map"):
        each, whole = output.require(part).unflatten(0, (views, batch)), fused.require(part)
        assert (each.amin(0) - 1e-5 <= whole).all()
        assert (whole <= each.amax(0) + 1e-5).all()
    torch.testing.assert_close(fused.logits, head(fused.embedding), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fused.embedding, fused.feature_map.mean((2, 3)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fused.cam.mean((2, 3)) + head.bias, fused.logits, rtol=1e-5, atol=1e-5)


@drawn(max_examples=30)
@given(taught(), SEEDS)
def test_the_order_of_views_and_of_images_is_only_an_order(case: tuple[Output, nn.Linear, Tensor], seed: int) -> None:
    output, _, weights = case
    batch, views = weights.shape
    of_views, of_images = (torch.randperm(count, generator=generator(seed)) for count in (views, batch))
    mixed = output.map(lambda part: part.unflatten(0, (views, batch))[of_views][:, of_images].flatten(0, 1))
    fused, plain = fuse(mixed, weights[of_images][:, of_views]), fuse(output, weights)
    for part in ("logits", "embedding", "feature_map"):
        torch.testing.assert_close(fused.require(part), plain.require(part)[of_images], rtol=1e-5, atol=1e-5)


# Losses


def as_maps(rows: Tensor) -> Tensor:
    return rows.repeat_interleave(4, dim=1).unflatten(1, (-1, 2, 2)) * torch.tensor([[1.0, 0.5], [0.0, -2.0]])


def same_noise(student: Tensor, teacher: Tensor, share: float = 1.0) -> Tensor:
    noise = torch.ones(2, *teacher.shape) * torch.arange(teacher.shape[1])
    return tekap_kl(student, teacher, 4.0, noise, teacher_share=1.0, noise_share=share)


def on_maps(loss: Loss) -> Loss:
    return lambda student, teacher: loss(as_maps(student), as_maps(teacher))


def with_another_class(loss: Loss) -> Loss:
    """For losses that need two classes."""
    return lambda student, teacher: loss(F.pad(student, (0, 1)), F.pad(teacher, (0, 1)))


def of_first_class(student: Tensor, teacher: Tensor) -> Tensor:
    return dkd(student, teacher, torch.zeros(len(student), dtype=torch.long), 1.0, 8.0, 4.0)


LOSSES: dict[str, Loss] = {  # of rows (B, N)
    "logit_kl": partial(logit_kl, temperature=4.0),
    "feature_kl": partial(feature_kl, temperature=2.0),
    "tekap_kl": partial(same_noise, share=0.0),
    "rkd_distance": rkd_distance,
    "rkd_angle": rkd_angle,
    "similarity_preserving": on_maps(similarity_preserving),
    "class_attention": on_maps(partial(class_attention, resolution=1, normalize=False)),
    "class_attention, normalised": on_maps(partial(class_attention, resolution=2, normalize=True)),
    "logit_kl, standardised": with_another_class(partial(logit_kl, temperature=2.0, standardize=True)),
    "dkd": with_another_class(of_first_class),
    "ttm": partial(ttm, power=1.0),  # at another, the student is to be another than the teacher
    "wttm": partial(wttm, power=1.0),
    "pkt": pkt,
    "attention_transfer": on_maps(attention_transfer),
    "nst": on_maps(nst),
    "hcl": on_maps(hcl),
}


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Rows of student and teacher, ``(B, N)``, of any size of values; some rows may be one and the same."""
    random, dtype = generator(draw(SEEDS)), draw(WIDE_AND_HALF)
    batch, width, scale = draw(st.integers(1, 7)), draw(st.integers(1, 9)), draw(st.sampled_from([1e-2, 1.0, 30.0]))
    rows = scale * torch.randn(2, batch, width, generator=random, dtype=torch.float64)
    chosen = draw(st.lists(st.integers(0, batch - 1), min_size=batch, max_size=batch))
    student, teacher = (each[chosen] if draw(st.booleans()) else each for each in rows)
    return student.to(dtype), teacher.to(dtype)


@pytest.mark.parametrize("name", LOSSES)
@drawn(max_examples=20)
@given(pairs(), SEEDS)
def test_losses_cost_nothing_where_both_agree_and_are_of_the_batch(
    name: str, pair: tuple[Tensor, Tensor], seed: int
) -> None:
    loss, (student, teacher) = LOSSES[name], pair
    value = loss(student, teacher)
    assert value.dtype == (torch.float64 if student.dtype == torch.float64 else torch.float32)
    assert value.isfinite()
    assert value >= -1e-6
    assert loss(student, student).abs() <= 1e-6
    order = torch.randperm(len(student), generator=generator(seed))
    torch.testing.assert_close(loss(student[order], teacher[order]), value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", [*(LOSSES[name] for name in ("logit_kl", "feature_kl", "ttm", "wttm")), same_noise])
@drawn(max_examples=20)
@given(pairs(), SEEDS)
def test_a_shift_of_all_logits_of_an_image_says_nothing(loss: Loss, pair: tuple[Tensor, Tensor], seed: int) -> None:
    student, teacher = (each.double() for each in pair)
    one, other = 100 * torch.randn(2, len(student), 1, generator=generator(seed), dtype=torch.float64)
    torch.testing.assert_close(loss(student + one, teacher + other), loss(student, teacher), rtol=1e-9, atol=1e-9)


@drawn(max_examples=40)
@given(SEEDS, FLOATS, st.integers(1, 6), st.integers(1, 7), st.integers(1, 8), st.booleans(), st.floats(0.05, 5))
def test_contrast(
    seed: int, dtype: torch.dtype, batch: int, classes: int, width: int, one_class: bool, temperature: float
) -> None:
    """Neither lengths nor the order of classes or images count; one's own text alone costs nothing."""
    random = generator(seed)
    image, text = (torch.randn(rows, width, generator=random, dtype=dtype) for rows in (batch, classes))
    label = torch.randint(1 if one_class else classes, (batch,), generator=random)
    value = text_contrast(image, text, label, temperature)
    assert value >= 0
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
    close(text_contrast(3 * image, text / 7, label, temperature), value)
    order, of_classes = torch.randperm(batch, generator=random), torch.randperm(classes, generator=random)
    close(text_contrast(image[order], text[of_classes], of_classes.argsort()[label[order]], temperature), value)
    assert text_contrast(image, text[:1], torch.zeros_like(label), temperature) == 0


EXTREMES = st.sampled_from([0.0, 1.0, -1.0, 1e4, -1e4])


@st.composite
def extreme_pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    batch, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    values = st.lists(EXTREMES, min_size=batch * width, max_size=batch * width)
    student, teacher = (torch.tensor(draw(values)).view(batch, width) for _ in range(2))
    return student, student if draw(st.booleans()) else teacher


def contrast(student: Tensor, teacher: Tensor) -> Tensor:
    return text_contrast(student, teacher, torch.zeros(len(student), dtype=torch.long), 0.07)


@pytest.mark.parametrize("name", [*LOSSES, "text_contrast"])
@pytest.mark.parametrize("half", [None, *HALVES])
@drawn(max_examples=15)
@given(extreme_pairs())
def test_extremes_are_finite_and_so_are_their_gradients(
    half: torch.dtype | None, name: str, pair: tuple[Tensor, Tensor]
) -> None:
    """Logits of ±10,000, dead and identical samples, all images of one class; in float32 and under autocast."""
    for value in gradients({**LOSSES, "text_contrast": contrast}[name], *pair, half):
        assert value.isfinite().all()


# Extractor


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, str]:
    """Convolutions, and one of the usual ways from their map to the head."""
    torch.manual_seed(draw(SEEDS))
    layers: list[nn.Module] = []
    channels = 3
    for _ in range(draw(st.integers(1, 3))):
        width, stride = draw(st.integers(4, 9)), draw(st.integers(1, 2))
        layers += [nn.Conv2d(channels, width, 3, stride, padding=1)]
        layers += [nn.BatchNorm2d(width)] if draw(st.booleans()) else []
        layers += [draw(st.sampled_from([nn.ReLU(inplace=True), nn.GELU(), nn.Identity()]))]
        channels = width
    ending = draw(st.sampled_from(["pool", "pool, dropout", "pool, norm", "pool, hidden layer", "flatten"]))
    layers += [nn.AdaptiveAvgPool2d(2 if ending == "flatten" else 1), nn.Flatten()]
    channels = 4 * channels if ending == "flatten" else channels
    layers += {
        "pool, dropout": [nn.Dropout(0.5)],
        "pool, norm": [draw(st.sampled_from([nn.LayerNorm(channels), nn.BatchNorm1d(channels)]))],
        "pool, hidden layer": [nn.Linear(channels, channels), nn.Tanh()],
    }.get(ending, [])
    head = nn.Linear(channels, draw(st.integers(2, 6)), bias=draw(st.booleans()))
    return nn.Sequential(*layers, head), ending


@drawn(max_examples=40)
@given(networks(), st.integers(1, 4), st.integers(8, 17), st.booleans(), SEEDS)
def test_parts_of_any_network_belong_together(
    case: tuple[nn.Module, str], batch: int, side: int, training: bool, seed: int
) -> None:
    network, ending = case
    head = network[-1]
    extractor = Extractor(network).train(training and batch > 1)
    output = extractor(torch.rand(batch, 3, side, side, generator=generator(seed)))
    assert output.logits.shape == (batch, head.out_features)
    assert output.embedding.shape == (batch, head.in_features)
    torch.testing.assert_close(output.logits, head(output.embedding), rtol=1e-5, atol=1e-5)
    assert output.head_weight is head.weight
    assert (output.feature_map is not None) == (ending in ("pool", "pool, dropout"))
    if output.feature_map is not None:
        assert output.feature_map.shape[:2] == output.embedding.shape
        dropped = output.embedding == 0
        mean = output.feature_map.mean((2, 3))
        scale = 2 if extractor.training and ending == "pool, dropout" else 1  # of what dropout leaves
        torch.testing.assert_close(output.embedding, (scale * mean).masked_fill(dropped, 0), rtol=1e-4, atol=1e-5)
