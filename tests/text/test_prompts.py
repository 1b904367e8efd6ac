"""Prompts of Table 1, class names of any kind, and the bank of embeddings."""

import pytest
import torch

from tmkd_lightning.text.prompts import (
    ANCHOR_TEMPLATE,
    TEMPLATES,
    PromptBank,
    check_class_names,
    check_template,
    prompts_of,
    view_templates,
)
from tmkd_lightning.views import MultiView


def test_templates_of_table_1() -> None:
    assert TEMPLATES == {
        "rgb": "a photo of a {class}",
        "edge": "an edge enhanced image of a {class}",
        "high_frequency": "a high-frequency enhanced image of a {class}",
    }
    assert ANCHOR_TEMPLATE == "a photo of a {class}"
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


def test_prompts_need_a_place() -> None:
    for refuse in (check_template, lambda template: prompts_of(template, [])):
        with pytest.raises(ValueError, match=r"'a photo of a cat' has no \{class\}"):
            refuse("a photo of a cat")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat", "dog"], "2 class names for .*3 classes .*'cat', 'dog'"),
        ([], "0 class names for .*3 classes"),
        (["cat", "dog", "cat"], "'cat' stands for several classes"),
        (["cat", "", "dog"], "the name of class 1 is empty"),
        (["cat", "dog", " \t"], "the name of class 2 is empty"),
    ],
)
def test_class_names_that_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_class_names(names, num_classes=3)


def test_digits_as_class_names_are_words() -> None:
    assert check_class_names([1, "2", 3], num_classes=3) == ["1", "2", "3"]
    with pytest.raises(ValueError, match="'1' stands for several classes"):
        check_class_names([1, "1"], num_classes=2)


@pytest.mark.parametrize("name", [False, None])
def test_class_names_that_yaml_takes_for_something_else(name: object) -> None:
    """As it does ``no``."""
    with pytest.raises(TypeError, match=f"class names must be words, got {name}: put quotes around it"):
        check_class_names(["yes", name], num_classes=2)


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


@pytest.mark.parametrize(
    ("replacement", "message"),
    [
        ({"edges": "a {class}"}, r"the view 'edges', but the views are \['rgb', 'edge'\]"),
        ({"edge": "a drawing"}, "'a drawing' has no {class}"),
        ("a drawing", "'a drawing' has no {class}"),
    ],
)
def test_templates_that_are_refused(replacement: dict[str, str] | str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        view_templates(VIEWS, replacement)


def test_rows_put_a_class_s_views_side_by_side() -> None:
    bank = PromptBank(views=2, num_classes=3, text_dim=4)
    embeddings, anchors = torch.rand(2, 3, 4), torch.rand(3, 4)
    bank.fill(embeddings, anchors)
    for label in range(3):
        assert bank.rows()[label].tolist() == [*embeddings[0, label].tolist(), *embeddings[1, label].tolist()]
    assert bank.anchors.equal(anchors)


def test_bank_is_empty_until_filled_and_keeps_a_copy() -> None:
    bank = PromptBank(views=1, num_classes=2, text_dim=3)
    assert not bank.filled
    embeddings = torch.ones(1, 2, 3)
    bank.fill(embeddings, torch.ones(2, 3))
    embeddings.zero_()
    assert bank.filled
    assert bank.embeddings.equal(torch.ones(1, 2, 3))


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


def test_bank_moves_with_the_module_but_is_not_saved() -> None:
    bank = PromptBank(views=2, num_classes=3, text_dim=4)
    assert bank.state_dict() == {}
    assert list(bank.parameters()) == []
    assert {name for name, _ in bank.to(torch.float64).named_buffers()} == {"embeddings", "anchors"}
    assert bank.anchors.dtype == torch.float64
