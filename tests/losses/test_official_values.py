"""Losses against values of the official implementations."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.golden_values import fill
from tmkd_lightning.losses import attention_transfer, dist, dkd, hcl, logit_kl, nkd, nst, pkt, ttm, vkd, wttm

LOSSES = {
    "attention_transfer": attention_transfer,
    "dist": dist,
    "dkd": dkd,
    "dkd_standardized": partial(dkd, standardize=True),
    "kd_standardized": partial(logit_kl, standardize=True),
    "nkd": nkd,
    "nst": nst,
    "pkt": pkt,
    "ttm": ttm,
    "vkd": vkd,
    "wttm": wttm,
}
Fill = tuple[tuple[int, ...], float, float]  # shape, phase and scale
VALUES: list[tuple[str, Fill, Fill, dict[str, Any], float]] = [  # name, student, teacher, arguments, official value
    (
        "dkd",
        ((4, 10), 0.1, 3),
        ((4, 10), 1.3, 3),
        {"label": [3, 0, 9, 3], "alpha": 1.0, "beta": 8.0, "temperature": 4.0},
        11.680860261375082,
    ),
    (
        "dkd",
        ((7, 13), 0.4, 5),
        ((7, 13), 2.1, 4),
        {"label": [0, 1, 2, 3, 4, 4, 12], "alpha": 1.0, "beta": 6.0, "temperature": 1.0},
        26.405323446153368,
    ),
    (
        "dkd",
        ((1, 5), 0.7, 2),
        ((1, 5), 1.9, 2),
        {"label": [2], "alpha": 1.0, "beta": 2.0, "temperature": 4.0},
        1.175846670407629,
    ),
    (
        "dkd",
        ((6, 100), 1.7, 2),
        ((6, 100), 0.2, 8),
        {"label": [0, 99, 50, 7, 7, 3], "alpha": 0.5, "beta": 8.0, "temperature": 2.0},
        38.04106001124416,
    ),
    (
        "dkd_standardized",
        ((4, 10), 0.1, 3),
        ((4, 10), 1.3, 3),
        {"label": [3, 0, 9, 3], "alpha": 1.0, "beta": 8.0, "temperature": 2.0},
        3.1224034542463484,
    ),
    (
        "dkd_standardized",
        ((7, 13), 0.4, 5),
        ((7, 13), 2.1, 4),
        {"label": [0, 1, 2, 3, 4, 4, 12], "alpha": 9.0, "beta": 18.0, "temperature": 2.0},
        17.917299642653816,
    ),
    (
        "dkd_standardized",
        ((1, 5), 0.7, 2),
        ((1, 5), 1.9, 2),
        {"label": [2], "alpha": 1.0, "beta": 2.0, "temperature": 3.0},
        2.644448936776036,
    ),
    ("kd_standardized", ((4, 10), 0.1, 3), ((4, 10), 1.3, 3), {"temperature": 2.0}, 0.3863255497212681),
    ("kd_standardized", ((7, 13), 0.4, 5), ((7, 13), 2.1, 4), {"temperature": 3.0}, 1.0048641532809455),
    ("kd_standardized", ((5, 2), 0.3, 1), ((5, 2), 1.1, 6), {"temperature": 2.0}, 0.1920630246789808),
    ("kd_standardized", ((6, 100), 1.7, 2), ((6, 100), 0.2, 8), {"temperature": 2.0}, 0.8622506683735441),
    ("dist", ((4, 10), 0.1, 3), ((4, 10), 1.3, 3), {"beta": 1.0, "gamma": 1.0, "temperature": 1.0}, 1.415435646306772),
    ("dist", ((7, 13), 0.4, 5), ((7, 13), 2.1, 4), {"beta": 2.0, "gamma": 2.0, "temperature": 4.0}, 75.1216283701867),
    ("dist", ((1, 5), 0.7, 2), ((1, 5), 1.9, 2), {"beta": 1.0, "gamma": 1.0, "temperature": 1.0}, 2.6148453808557197),
    (
        "dist",
        ((6, 100), 1.7, 2),
        ((6, 100), 0.2, 8),
        {"beta": 1.0, "gamma": 2.0, "temperature": 1.0},
        3.322143884053098,
    ),
    (
        "nkd",
        ((4, 10), 0.1, 3),
        ((4, 10), 1.3, 3),
        {"label": [3, 0, 9, 3], "gamma": 1.5, "temperature": 1.0},
        3.8343159099420996,
    ),
    (
        "nkd",
        ((7, 13), 0.4, 5),
        ((7, 13), 2.1, 4),
        {"label": [0, 1, 2, 3, 4, 4, 12], "gamma": 1.5, "temperature": 4.0},
        69.69643825904944,
    ),
    ("nkd", ((1, 5), 0.7, 2), ((1, 5), 1.9, 2), {"label": [2], "gamma": 1.0, "temperature": 1.0}, 1.7652027226210436),
    ("ttm", ((4, 10), 0.1, 3), ((4, 10), 1.3, 3), {"power": 0.1}, 1.1157693631989685),
    ("ttm", ((7, 13), 0.4, 5), ((7, 13), 2.1, 4), {"power": 0.2}, 3.340233982048594),
    ("ttm", ((1, 5), 0.7, 2), ((1, 5), 1.9, 2), {"power": 1.0}, 0.3983255953146369),
    ("ttm", ((6, 100), 1.7, 2), ((6, 100), 0.2, 8), {"power": 0.25}, 1.287559551941341),
    ("wttm", ((4, 10), 0.1, 3), ((4, 10), 1.3, 3), {"power": 0.1}, 8.022070420920436),
    ("wttm", ((7, 13), 0.4, 5), ((7, 13), 2.1, 4), {"power": 0.2}, 19.395803974397957),
    ("wttm", ((1, 5), 0.7, 2), ((1, 5), 1.9, 2), {"power": 1.0}, 0.3983255953146369),
    ("wttm", ((6, 100), 1.7, 2), ((6, 100), 0.2, 8), {"power": 0.25}, 20.545698331245294),
    ("pkt", ((4, 6), 0.2, 1), ((4, 8), 0.9, 1), {}, 0.14473695345648707),
    ("pkt", ((7, 12), 1.2, 3), ((7, 5), 0.3, 0.2), {}, 0.0045959195584542355),
    ("pkt", ((2, 3), 0.2, 1), ((2, 4), 2.9, 10), {}, 0.0028325265882952044),
    ("attention_transfer", ((2, 5, 4, 4), 0.1, 2), ((2, 7, 8, 8), 1.1, 2), {"power": 2}, 0.008616121875593477),
    ("attention_transfer", ((3, 4, 7, 7), 0.4, 1), ((3, 6, 4, 4), 1.9, 3), {"power": 2}, 0.006383889049116531),
    ("attention_transfer", ((1, 3, 5, 5), 0.9, 1), ((1, 8, 5, 5), 0.2, 1), {"power": 4}, 0.0503024136552998),
    ("nst", ((2, 5, 4, 4), 0.1, 2), ((2, 7, 8, 8), 1.1, 2), {}, 1.107968193729481),
    ("nst", ((3, 4, 7, 7), 0.4, 1), ((3, 6, 4, 4), 1.9, 3), {}, 1.0714968114065515),
    ("nst", ((1, 3, 5, 5), 0.9, 1), ((1, 8, 5, 5), 0.2, 1), {}, 1.1388140584957798),
    ("vkd", ((4, 6), 0.2, 1), ((4, 8), 0.9, 1), {"projection": ((8, 6), 0.2, 0.5)}, 0.771025754479709),
    ("vkd", ((7, 12), 1.2, 3), ((7, 5), 0.3, 0.2), {"projection": ((5, 12), 0.9, 0.5)}, 5.499476918032557),
    ("vkd", ((2, 3), 0.2, 1), ((2, 4), 2.9, 10), {"projection": ((4, 3), 1.4, 0.5)}, 0.6734984048082268),
]
HCL: list[tuple[list[Fill], list[Fill], float]] = [  # summed over pairs of maps, as ReviewKD does
    ([((2, 3, 8, 8), 0.1, 1)], [((2, 3, 8, 8), 1.8, 2)], 1.478987819626684),
    (
        [((3, 4, 1, 1), 0.6, 1), ((3, 5, 2, 2), 1.6, 1)],
        [((3, 4, 1, 1), 2.3, 2), ((3, 5, 2, 2), 3.3, 2)],
        4.745636791941003,
    ),
    (
        [((1, 2, 7, 7), 0.9, 1), ((1, 3, 4, 4), 1.9, 1), ((1, 4, 1, 1), 2.9, 1)],
        [((1, 2, 7, 7), 2.6, 2), ((1, 3, 4, 4), 3.6, 2), ((1, 4, 1, 1), 4.6, 2)],
        6.22772020642687,
    ),
]


def argument(value: Any) -> Any:
    """A label or a filled tensor."""
    if isinstance(value, tuple):
        return fill(*value)
    return torch.tensor(value) if isinstance(value, list) else value


@pytest.mark.parametrize(("name", "student", "teacher", "arguments", "value"), VALUES)
def test_official_values(name: str, student: Fill, teacher: Fill, arguments: dict[str, Any], value: float) -> None:
    arguments = {key: argument(one) for key, one in arguments.items()}
    result: Tensor = LOSSES[name](fill(*student), fill(*teacher), **arguments)
    assert result.dtype == torch.float64
    assert result.item() == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(("students", "teachers", "value"), HCL)
def test_official_values_of_hcl(students: list[Fill], teachers: list[Fill], value: float) -> None:
    pairs = zip(students, teachers, strict=True)
    result = sum(hcl(fill(*student), fill(*teacher)) for student, teacher in pairs)
    assert result.item() == pytest.approx(value, rel=1e-9)
