"""Methods: the terms they return, what they read, and how they are put together."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.golden_values import fill
from helpers.methods import METHODS as EVERY
from helpers.methods import NUMBERED, built
from tmkd_lightning.distillers import (
    AT,
    CATKD,
    CRD,
    DIST,
    DKD,
    KD,
    NKD,
    NST,
    PKT,
    RKD,
    SDD,
    SP,
    SRRL,
    TTM,
    VID,
    Distiller,
    FeatureKL,
    FitNet,
    QueueKL,
    ReviewKD,
    SimKD,
    Sum,
    TeKAP,
    VkD,
    WarmUp,
)
from tmkd_lightning.feature_extraction.output import MissingPartError, Output
from tmkd_lightning.losses import (
    class_attention,
    feature_kl,
    logit_kl,
    rkd_angle,
    rkd_distance,
    similarity_preserving,
    tekap_kl,
)
from tmkd_lightning.teacher.fusion import fuse

LABEL = torch.tensor([0, 2])


WRONG = [-1.0, float("nan"), float("inf")]


def outputs(student_dim: int = 4, teacher_dim: int = 6) -> tuple[Output, Output]:
    torch.manual_seed(0)
    return tuple(Output(torch.randn(2, 3), torch.randn(2, dim)) for dim in (student_dim, teacher_dim))


class Constant(Distiller):
    """Costs what it is told to."""

    reads = frozenset({"feature_map"})

    def __init__(self, **terms: float) -> None:
        super().__init__()
        self.terms = terms

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        return {name: torch.tensor(value) for name, value in self.terms.items()}


def network_output(batch: int, width: int, size: int) -> Output:
    """An output with all parts, as a network with a linear head gives it."""
    feature_map, head_weight = torch.rand(batch, width, size, size), torch.randn(3, width)
    embedding = feature_map.mean((2, 3))
    maps = (torch.rand(batch, width, 2 * size, 2 * size), feature_map)
    return Output(embedding @ head_weight.T + 1, embedding, feature_map, head_weight, maps)


def test_kd() -> None:
    student, teacher = outputs()
    assert KD()(student, teacher, LABEL)["kd"].equal(logit_kl(student.logits, teacher.logits, 4.0))
    term = KD(2.0, 0.9, name="soft")(student, teacher, LABEL)["soft"]
    torch.testing.assert_close(term, 0.9 * logit_kl(student.logits, teacher.logits, 2.0))


def test_feature_kl_without_noise() -> None:
    student, teacher = outputs()
    distiller = built(FeatureKL(temperature=2.0, noise_scale=0.0, weight=0.5), 4, 6)
    projected = student.embedding @ distiller.projector.weight.T + distiller.projector.bias
    p_student, p_teacher = (F.softmax(value / 2.0, dim=1) for value in (projected, teacher.embedding))
    by_hand = 0.5 * 2.0**2 / 2 * (p_teacher * (p_teacher.log() - p_student.log())).sum()
    state = torch.get_rng_state()
    torch.testing.assert_close(distiller(student, teacher, LABEL)["feature"], by_hand)
    assert torch.get_rng_state().equal(state)  # nothing was drawn


def test_feature_kl_with_noise() -> None:
    """Equation 6: the teacher's embedding plus noise_scale times standard normal noise, new each time."""
    student, teacher = outputs()
    distiller = built(FeatureKL(temperature=4.0, noise_scale=0.3), 4, 6)
    torch.manual_seed(7)
    terms = [distiller(student, teacher, LABEL)["feature"] for _ in range(2)]
    torch.manual_seed(7)
    for term in terms:
        noisy = teacher.embedding + 0.3 * torch.randn(2, 6)
        torch.testing.assert_close(term, feature_kl(distiller.projector(student.embedding), noisy, 4.0))
    assert not terms[0].equal(terms[1])


def test_feature_kl_trains_student_projector_and_teacher_side() -> None:
    student, teacher = outputs()
    student.embedding.requires_grad_()
    teacher.embedding.requires_grad_()  # as fusion gives it
    distiller = built(FeatureKL(), 4, 6)
    distiller(student, teacher, LABEL)["feature"].backward()
    for tensor in (student.embedding, teacher.embedding, distiller.projector.weight, distiller.projector.bias):
        assert tensor.grad.abs().sum() > 0


METHODS = {**EVERY, **NUMBERED, "feature": FeatureKL}


@pytest.mark.parametrize(
    ("name", "reads", "is_logit_term", "min_batch"),
    [
        ("kd", set(), True, 1),
        ("feature", {"embedding"}, False, 1),
        ("rkd", {"embedding"}, False, 3),
        ("sp", {"feature_map"}, False, 2),
        ("cat_kd", {"feature_map", "head_weight"}, False, 1),
        ("tekap", set(), True, 1),
        ("dkd", set(), True, 1),
        ("dist", set(), True, 2),
        ("ttm", set(), True, 1),
        ("nkd", set(), True, 1),
        ("pkt", {"embedding"}, False, 2),
        ("sdd", {"embedding", "feature_map", "head_weight"}, True, 1),
        ("at", {"maps"}, False, 1),
        ("nst", {"maps"}, False, 1),
        ("vkd", {"embedding"}, False, 1),
        ("srrl", {"embedding", "head_weight"}, False, 2),
        ("queue_kl", {"embedding"}, False, 1),
        ("crd", {"embedding"}, False, 1),
        ("fitnet", {"maps"}, False, 2),
        ("vid", {"maps"}, False, 1),
        ("review_kd", {"maps", "embedding"}, False, 2),
        ("simkd", {"feature_map", "head_weight"}, False, 1),
    ],
)
def test_what_a_method_says_of_itself(name: str, reads: set[str], is_logit_term: bool, min_batch: int) -> None:
    method, width = built(METHODS[name](), 4, 6), student_width(name)
    assert (method.reads, method.is_logit_term, method.min_batch) == (reads, is_logit_term, min_batch)
    assert method.needs_class == (name in ("dkd", "nkd", "sdd", "crd"))
    assert list(method(network_output(2, width, 5), network_output(2, 6, 4), LABEL)) == [name]


def student_width(name: str) -> int:
    """SimKD's student has the projector in its network."""
    return 6 if name == "simkd" else 4


def test_methods_weigh_their_losses() -> None:
    student, teacher = network_output(4, 4, 5), network_output(4, 6, 8)
    embeddings, maps = ((getattr(student, name), getattr(teacher, name)) for name in ("embedding", "feature_map"))
    distance, angle, similarity = rkd_distance(*embeddings), rkd_angle(*embeddings), similarity_preserving(*maps)
    cams = cam_by_hand(student), cam_by_hand(teacher)
    for method, expected in (
        (RKD(), 25 * distance + 50 * angle),
        (RKD(2.0, 0.5), 2 * distance + 0.5 * angle),
        (SP(), 3000 * similarity),
        (SP(weight=2.0), 2 * similarity),
        (CATKD(), 5 * class_attention(*cams, 2, False)),
        (CATKD(700.0, 4, True), 700 * class_attention(*cams, 4, True)),
    ):
        torch.testing.assert_close(method(student, teacher, LABEL)[method.name], expected)


def cam_by_hand(output: Output) -> Tensor:
    pairs = [(maps, row) for maps in output.feature_map for row in output.head_weight]
    cams = [sum(weight * channel for weight, channel in zip(row, maps, strict=True)) for maps, row in pairs]
    return torch.stack(cams).unflatten(0, (len(output.feature_map), -1))


@pytest.mark.parametrize(("resolution", "value"), [(2, 1.148627911650225), (4, 2.0298327590136305)])
def test_golden_cat_kd(resolution: int, value: float) -> None:
    """A head that mixes the channels back into the golden maps."""
    mix = fill((5, 5), 0.7, 1) + 2 * torch.eye(5)
    cams = fill((2, 5, 4, 4), 0.1, 2), fill((2, 5, 8, 8), 1.1, 2)
    student, teacher = (
        Output(torch.zeros(2, 5), None, torch.einsum("dk,bkhw->bdhw", mix.inverse(), cam), mix) for cam in cams
    )
    assert CATKD(1.0, resolution)(student, teacher, LABEL)["cat_kd"].item() == pytest.approx(value, rel=1e-9)


def test_cat_kd_trains_the_head() -> None:
    """In the official code the layer that gives the maps is the classifier."""
    student, teacher = network_output(2, 4, 5), network_output(2, 6, 8)
    student.feature_map.requires_grad_()
    student.head_weight.requires_grad_()
    CATKD()(student, teacher, LABEL)["cat_kd"].backward()
    assert student.head_weight.grad.abs().sum() > 0
    assert student.feature_map.grad.abs().sum() > 0


def tekap_noise(monkeypatch: pytest.MonkeyPatch, method: TeKAP, logits: Tensor) -> Tensor:
    """What a method hands to its loss as noise."""
    given = []
    monkeypatch.setattr(
        "tmkd_lightning.distillers.tekap.tekap_kl", lambda *args: given.append(args[3]) or args[0].sum()
    )
    method(Output(logits), Output(logits), LABEL)
    return given[0]


def test_tekap() -> None:
    student, teacher = outputs()
    torch.manual_seed(7)
    noise = torch.randn(3, 2, 3)
    shares = {"teacher_share": 0.5, "noise_share": 2.0, "copies_weight": 0.3}
    for method, expected in (
        (TeKAP(), tekap_kl(student.logits, teacher.logits, 4.0, noise, 0.9, 0.1, 0.8)),
        (TeKAP(1.5, 0.9, **shares), 0.9 * tekap_kl(student.logits, teacher.logits, 1.5, noise, **shares)),
    ):
        torch.manual_seed(7)
        torch.testing.assert_close(method(student, teacher, LABEL)["tekap"], expected)


def test_tekap_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(100, 200)
    one, other = (tekap_noise(monkeypatch, TeKAP(), logits) for _ in range(2))
    assert one.shape == (3, 100, 200)
    assert abs(one.mean()) < 0.02
    assert one.std().item() == pytest.approx(1, abs=0.02)
    assert torch.corrcoef(torch.stack([*one.flatten(1), *other.flatten(1)])).sub(torch.eye(6)).abs().max() < 0.05
    assert tekap_noise(monkeypatch, TeKAP(copies=1), logits.to("meta")).device.type == "meta"


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method().reads])
def test_missing_parts(name: str) -> None:
    student, teacher = network_output(2, student_width(name), 4), network_output(2, 6, 4)
    for part in METHODS[name]().reads - ({"head_weight"} if name == "simkd" else set()):  # it is read before the step
        nothing = {part: () if part == "maps" else None}
        pairs = [(student, replace(teacher, **nothing)), (replace(student, **nothing), teacher)]
        for pair in pairs[: 1 if (name, part) == ("srrl", "head_weight") else 2]:  # of the teacher alone
            with pytest.raises(MissingPartError, match=f"this output has no {part} "):
                built(METHODS[name](), 4, 6)(*pair, LABEL)


WEIGHED = [KD, SP, CATKD, TeKAP, DKD, DIST, TTM, NKD, PKT, AT, NST, VkD, SRRL, FitNet, VID, ReviewKD, CRD, SimKD]


@pytest.mark.parametrize(
    ("argument", "methods", "wrong", "message"),
    [
        ("weight", [*WEIGHED, FeatureKL, QueueKL], WRONG, "at least 0 and finite"),
        ("noise_scale", [FeatureKL], WRONG, "at least 0 and finite"),
        ("distance_weight", [RKD], WRONG, "at least 0 and finite"),
        ("angle_weight", [RKD], WRONG, "at least 0 and finite"),
        ("copies_weight", [TeKAP], WRONG, "at least 0 and finite"),
        ("resolution", [CATKD], [0, 1.5], "a whole number, at least 1"),
        ("place", [FitNet], [0, 1.5], "a whole number, at least 1"),
        ("width", [ReviewKD], [0, 1.5], "a whole number, at least 1"),
        ("copies", [TeKAP], [0, 1.5], "a whole number, at least 1"),
        ("teacher_temperature", [QueueKL], [0.0, float("inf")], "above 0 and finite"),
        ("queue_size", [QueueKL], [0, 1.5], "a whole number, at least 1"),
        (
            "temperature",
            [KD, TeKAP, FeatureKL, DKD, DIST, NKD, QueueKL, CRD],
            [0.0, float("inf")],
            "above 0 and finite",
        ),
        ("beta", [DKD, DIST], WRONG, "at least 0 and finite"),
        ("gamma", [DIST, NKD], WRONG, "at least 0 and finite"),
        ("alpha", [DKD], WRONG, "at least 0 and finite"),
        ("power", [TTM], [0.0, float("nan"), float("inf")], "above 0 and finite"),
        ("last", [AT, NST, VID, ReviewKD], [0, 1.5], "a whole number, at least 1"),
        ("power", [AT], [0.5, float("nan"), float("inf")], "at least 1 and finite"),
        ("epochs", [partial(WarmUp, KD())], [0, 1.5], "a whole number, at least 1"),
        ("negatives", [CRD], [0, 1.5], "a whole number, at least 1"),
        ("momentum", [CRD], [-0.1, 1.1, float("nan")], "from 0 to 1"),
        ("name", [*WEIGHED, RKD, partial(SDD, KD()), QueueKL], [""], "a word, as the term is logged under it"),
    ],
)
def test_wrong_arguments(argument: str, methods: list[Callable[..., Distiller]], wrong: list, message: str) -> None:
    for method, value in product(methods, wrong):
        with pytest.raises(ValueError, match=f"^{argument} must be {message}, got {value}"):
            method(**{argument: value})


@pytest.mark.parametrize("name", METHODS)
def test_fusion_learns_through_every_method(name: str) -> None:
    """A fused teacher has all parts, and no method cuts it off from the weights of the views."""
    views = network_output(3 * 4, 6, 4)
    weights = torch.rand(4, 3).softmax(1).requires_grad_()
    method = built(METHODS[name](), 4, 6, batch=4)
    method(network_output(4, student_width(name), 4), fuse(views, weights), torch.tensor([0, 2, 1, 1]))[name].backward()
    assert weights.grad.isfinite().all()
    assert (weights.grad != 0).all()


def test_sum_puts_terms_together() -> None:
    student, teacher = outputs()
    feature = built(FeatureKL(noise_scale=0.0), 4, 6)
    both = Sum(KD(), Sum(Constant(one=1.0), Constant(two=2.0)), feature)
    terms = both(student, teacher, LABEL)
    assert list(terms) == ["kd", "one", "two", "feature"]
    assert terms["feature"].equal(feature(student, teacher, LABEL)["feature"])
    assert terms["two"].item() == 2.0
    assert both.reads == {"feature_map", "embedding"}
    assert set(both.parameters()) == set(feature.parameters())
    assert both.parts[3] is feature


@pytest.mark.parametrize(
    ("parts", "is_logit_term", "min_batch"),
    [([], False, 1), ([CATKD()], False, 1), ([KD(), RKD()], True, 3), ([Sum(SP()), CATKD()], False, 2)],
)
def test_sum_needs_what_its_parts_need(parts: list[Distiller], is_logit_term: bool, min_batch: int) -> None:
    assert (Sum(*parts).is_logit_term, Sum(*parts).min_batch) == (is_logit_term, min_batch)


def test_two_terms_of_one_name() -> None:
    with pytest.raises(ValueError, match="two loss terms are named 'kd'"):
        Sum(KD(), KD(temperature=1.0))(*outputs(), LABEL)
    for name in ("ce", "fusion", "text"):  # TMKDModule's own
        with pytest.raises(ValueError, match=f"two loss terms are named '{name}'"):
            Sum(KD(name=name))(*outputs(), LABEL)
    assert set(Sum(KD(), KD(temperature=1.0, name="sharp"))(*outputs(), LABEL)) == {"kd", "sharp"}


@pytest.mark.parametrize("stranger", [torch.nn.Identity(), logit_kl, KD])
def test_sum_takes_distillers_only(stranger: object) -> None:
    with pytest.raises(TypeError, match="Sum takes Distillers"):
        Sum(KD(), stranger)


def test_a_method_must_say_how_it_compares() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Distiller()
