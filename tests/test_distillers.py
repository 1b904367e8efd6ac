"""Methods: the terms they return, what they read, and how they are put together."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tmkd_lightning.distillers import KD, Distiller, FeatureKL, Sum
from tmkd_lightning.losses import feature_kl, logit_kl
from tmkd_lightning.outputs import MissingPartError, Output

LABEL = torch.tensor([0, 2])


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


@pytest.mark.parametrize(("temperature", "weight", "name"), [(4.0, 1.0, "kd"), (2.0, 0.9, "soft")])
def test_kd(temperature: float, weight: float, name: str) -> None:
    student, teacher = outputs()
    terms = KD(temperature, weight, name)(student, teacher, LABEL)
    assert list(terms) == [name]
    torch.testing.assert_close(terms[name], weight * logit_kl(student.logits, teacher.logits, temperature))


def test_kd_defaults() -> None:
    student, teacher = outputs()
    assert KD()(student, teacher, LABEL)["kd"].equal(logit_kl(student.logits, teacher.logits, 4.0))
    assert (KD().reads, KD().is_logit_term) == ({"logits"}, True)


def test_feature_kl_without_noise() -> None:
    student, teacher = outputs()
    distiller = FeatureKL(4, 6, temperature=2.0, noise_scale=0.0, weight=0.5)
    projected = student.embedding @ distiller.projector.weight.T + distiller.projector.bias
    p_student, p_teacher = (F.softmax(value / 2.0, dim=1) for value in (projected, teacher.embedding))
    by_hand = 0.5 * 2.0**2 / 2 * (p_teacher * (p_teacher.log() - p_student.log())).sum()
    terms = distiller(student, teacher, LABEL)
    assert list(terms) == ["feature"]
    torch.testing.assert_close(terms["feature"], by_hand)
    assert (distiller.reads, distiller.is_logit_term) == ({"embedding"}, False)


def test_feature_kl_with_noise() -> None:
    """Equation 6: the teacher's embedding plus noise_scale times standard normal noise, new each time."""
    student, teacher = outputs()
    distiller = FeatureKL(4, 6, temperature=4.0, noise_scale=0.3)
    torch.manual_seed(7)
    terms = [distiller(student, teacher, LABEL)["feature"] for _ in range(2)]
    torch.manual_seed(7)
    for term in terms:
        noisy = teacher.embedding + 0.3 * torch.randn(2, 6)
        torch.testing.assert_close(term, feature_kl(distiller.projector(student.embedding), noisy, 4.0))
    assert not terms[0].equal(terms[1])


def test_feature_kl_without_noise_draws_nothing() -> None:
    student, teacher = outputs()
    distiller = FeatureKL(4, 6, noise_scale=0.0)
    state = torch.get_rng_state()
    distiller(student, teacher, LABEL)
    assert torch.get_rng_state().equal(state)


def test_feature_kl_trains_student_projector_and_teacher_side() -> None:
    student, teacher = outputs()
    student.embedding.requires_grad_()
    teacher.embedding.requires_grad_()  # as fusion gives it
    distiller = FeatureKL(4, 6)
    distiller(student, teacher, LABEL)["feature"].backward()
    for tensor in (student.embedding, teacher.embedding, distiller.projector.weight, distiller.projector.bias):
        assert tensor.grad.abs().sum() > 0


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_feature_kl_without_an_embedding(side: str) -> None:
    student, teacher = outputs()
    bare = Output(torch.randn(2, 3))
    pair = (bare, teacher) if side == "student" else (student, bare)
    with pytest.raises(MissingPartError, match="no embedding"):
        FeatureKL(4, 6)(*pair, LABEL)


def test_negative_noise() -> None:
    with pytest.raises(ValueError, match="noise_scale must be at least 0"):
        FeatureKL(4, 6, noise_scale=-0.1)


def test_sum_puts_terms_together() -> None:
    student, teacher = outputs()
    feature = FeatureKL(4, 6, noise_scale=0.0)
    both = Sum(KD(), Constant(one=1.0, two=2.0), feature)
    terms = both(student, teacher, LABEL)
    assert list(terms) == ["kd", "one", "two", "feature"]
    assert terms["feature"].equal(feature(student, teacher, LABEL)["feature"])
    assert terms["two"].item() == 2.0
    assert both.reads == {"logits", "feature_map", "embedding"}
    assert set(both.parameters()) == set(feature.parameters())
    assert both.parts[2] is feature


@pytest.mark.parametrize(
    ("parts", "is_logit_term"), [([], False), ([Constant(a=1.0)], False), ([Constant(a=1.0), KD()], True)]
)
def test_sum_is_a_logit_term_if_one_part_is(parts: list[Distiller], is_logit_term: bool) -> None:
    assert Sum(*parts).is_logit_term is is_logit_term


def test_sums_nest() -> None:
    terms = Sum(Sum(Constant(a=1.0), Constant(b=2.0)), Constant(c=3.0))(*outputs(), LABEL)
    assert {name: term.item() for name, term in terms.items()} == {"a": 1.0, "b": 2.0, "c": 3.0}


def test_two_terms_of_one_name() -> None:
    with pytest.raises(ValueError, match="two loss terms are named 'kd'"):
        Sum(KD(), KD(temperature=1.0))(*outputs(), LABEL)
    assert set(Sum(KD(), KD(temperature=1.0, name="sharp"))(*outputs(), LABEL)) == {"kd", "sharp"}


@pytest.mark.parametrize("stranger", [torch.nn.Identity(), logit_kl, KD])
def test_sum_takes_distillers_only(stranger: object) -> None:
    with pytest.raises(TypeError, match="Sum takes Distillers"):
        Sum(KD(), stranger)


def test_a_method_must_say_how_it_compares() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Distiller()
