"""Prompts of Table 1, and the bank of their embeddings."""

import pytest
import torch

from tmkd_lightning.text.prompts import TEMPLATES, PromptBank, check_template, prompts_of, view_templates
from tmkd_lightning.views import MultiView


def test_templates_of_table_1() -> None:
    assert TEMPLATES == {
        "rgb": "a photo of a {class}",
        "edge": "an edge enhanced image of a {class}",
        "high_frequency": "a high-frequency enhanced image of a {class}",
    }
    assert {view.name: view.template for view in MultiView().views} == TEMPLATES


@pytest.mark.parametrize(
    ("template", "name", "prompt"),
    [
        ("a photo of a {class}", "tabby cat", "a photo of a tabby cat"),
        ("a {class}", "{cat}", "a {cat}"),
        ("a {class}", "{0}{}{", "a {0}{}{"),
        ("a {class}", "{class}", "a {class}"),  # filled in once, not again
        ("{x} of {{class}}", "cat", "{x} of {cat}"),
        ("{class}, {class}", "cat", "cat, cat"),
        ("100 % {class}\\1", "c%s", "100 % c%s\\1"),
    ],
)
def test_prompts_take_text_as_it_is(template: str, name: str, prompt: str) -> None:
    assert prompts_of(template, [name, "dog"])[0] == prompt


VIEWS = {"rgb": "a photo of a {class}", "edge": "edges of a {class}"}


@pytest.mark.parametrize(
    ("replacement", "chosen"),
    [
        (None, VIEWS),
        ({}, VIEWS),
        ("{class}", {"rgb": "{class}", "edge": "{class}"}),
        ({"edge": "a drawing of a {class}"}, {"rgb": "a photo of a {class}", "edge": "a drawing of a {class}"}),
    ],
)
def test_replaced_templates(replacement: dict[str, str] | str | None, chosen: dict[str, str]) -> None:
    assert list(view_templates(VIEWS, replacement).items()) == list(chosen.items())


def test_templates_that_are_refused() -> None:
    for refuse in (check_template, lambda template: prompts_of(template, [])):
        with pytest.raises(ValueError, match=r"'a photo of a cat' has no \{class\}"):
            refuse("a photo of a cat")
    with pytest.raises(ValueError, match=r"the view 'edges', but the views are \['rgb', 'edge'\]"):
        view_templates(VIEWS, {"edges": "a {class}"})


def test_bank_copies_and_concatenates() -> None:
    bank = PromptBank(views=2, num_classes=3, text_dim=4)
    assert not bank.filled
    embeddings, anchors = torch.rand(2, 3, 4), torch.rand(3, 4)
    one, other = embeddings.clone()
    bank.fill(embeddings, anchors)
    embeddings.zero_()
    assert bank.filled
    assert bank.anchors.equal(anchors)
    expected = torch.stack([torch.cat([one[label], other[label]]) for label in range(3)])
    assert bank.concat_views().equal(expected)
    assert bank.concat_views(torch.tensor([2, 0, 2])).equal(expected[[2, 0, 2]])


def test_bank_is_empty_once_resized() -> None:
    bank = PromptBank(views=2, num_classes=3, text_dim=4)
    bank.fill(torch.ones(2, 3, 4), torch.ones(3, 4))
    bank.resize(3)
    assert bank.filled
    bank.resize(5)
    assert (bank.filled, bank.embeddings.shape, bank.anchors.shape) == (False, (2, 5, 4), (5, 4))
    assert bank.state_dict() == {}
    assert list(bank.parameters()) == []
    assert bank.to(torch.float64).anchors.dtype == torch.float64


@pytest.mark.parametrize(
    ("views", "anchors", "message"),
    [
        ((2, 3, 6), (3, 6), r"another width needs TMKDModule\(text_dim=6\)"),
        ((2, 4, 4), (4, 4), r"\(2, 4, 4\).*do not fit \(2, 3, 4\)"),
        ((1, 3, 4), (3, 4), r"\(1, 3, 4\).*do not fit \(2, 3, 4\)"),
        ((2, 3, 4), (2, 4), r"\(2, 4\).*do not fit .*\(3, 4\)"),
        ((2, 1, 4), (1, 4), "do not fit"),  # would broadcast
    ],
)
def test_embeddings_that_do_not_fit(views: tuple[int, ...], anchors: tuple[int, ...], message: str) -> None:
    bank = PromptBank(views=2, num_classes=3, text_dim=4)
    with pytest.raises(ValueError, match=message):
        bank.fill(torch.ones(views), torch.ones(anchors))
    assert not bank.filled
    assert not bank.embeddings.any()
