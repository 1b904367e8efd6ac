"""Class names of any kind, and lists that name the same classes otherwise."""

from types import SimpleNamespace

import numpy as np
import pytest

from tmkd_lightning.text.class_names import (
    ClassList,
    check_class_names,
    check_same_classes,
    find_class_names,
    parse_class_names,
    resolve_class_names,
)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat", "dog"], "2 class names for .*3 classes .*'cat', 'dog'"),
        ([], "0 class names for .*3 classes"),
        (["cat", "dog", "cat"], "'cat' stands for several classes"),
        ([1, "1", 2], "'1' stands for several classes"),
        (["cat", "", "dog"], "the name of class 1 is empty"),
        (["cat", "dog", " \t"], "the name of class 2 is empty"),
        (["yes", False, "dog"], "class names must be words, got False: put quotes around it"),  # as YAML takes ``no``
        (["cat", None, "dog"], "class names must be words, got None: put quotes around it"),
    ],
)
def test_class_names_that_are_refused(names: list[object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        check_class_names(names, num_classes=3)
    assert check_class_names([1, "2", 3], num_classes=3) == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (("cat", 2), ["cat", "2"]),
        (np.array(["cat", "dog"]), ["cat", "dog"]),
        ({1: "dog", 0: "cat"}, ["cat", "dog"]),
        ({1: "dog", 2: "cat"}, None),
        (["cat", "cat"], None),
        (["cat"], None),
        (["cat", 1.5], None),
        ("ab", None),
        (None, None),
    ],
)
def test_names_of_foreign_objects(value: object, names: list[str] | None) -> None:
    assert parse_class_names(value, num_classes=2) == names


def test_where_names_are_found() -> None:
    module = SimpleNamespace(class_names=None, saved_class_names=["c", "d"], num_classes=2, _trainer=None)
    data = SimpleNamespace(class_names=("a", "b"))
    assert find_class_names(module) == find_class_names(module, SimpleNamespace(class_names=["a"])) == ["c", "d"]
    assert find_class_names(module, data) == ["a", "b"]
    module.class_names = ["e", "f"]
    assert find_class_names(module, data) == ["e", "f"]
    module.num_classes = 3
    assert find_class_names(module) is None


def test_given_names_win_and_do_not_reorder() -> None:
    assert resolve_class_names(2) == ["0", "1"]
    assert resolve_class_names(2, known=["cat", "dog"]) == ["cat", "dog"]
    assert resolve_class_names(2, ["kitten", "dog"], ["cat", "dog"]) == ["kitten", "dog"]
    with pytest.raises(ValueError, match=r"another order: class 0 is 'cat' in the file and 'dog' in the names given"):
        resolve_class_names(2, ["dog", "cat"], ["cat", "dog"], "the file")
    with pytest.raises(ValueError, match="1 class names"):
        resolve_class_names(2, ["dog"])


# Lists


def lists(one: list[str], other: list[str]) -> tuple[ClassList, ClassList]:
    return ClassList("the checkpoint", one), ClassList("the data", other)


def test_differences_are_described_and_rows_found() -> None:
    one, other = lists(["cat", "dog", "emu"], ["a emu", "cat", "dog"])
    assert one.against(other) == (
        "class 0 is 'cat' in the checkpoint and 'a emu' in the data, class 1 is 'dog' in the checkpoint and 'cat' in "
        "the data (and 1 more)"
    )
    file, here = lists(["b", "c", "A_x", "d"], ["a x", "b", "c", "d"])
    assert file.rows_for(here) == [2, 0, 1, 3]
    assert file.reordered([2, 0, 1, 3]).same(here)
    assert file.rows_for(ClassList("", ["a x", "b", "c", "e"])) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (["a_b", "C d"], ["A b", "c_D"], True),
        (["e\u0301mu", "cat"], ["\u00e9mu", "cat"], True),  # as macOS and Linux write one folder
        (["A", "a"], ["A", "a"], True),
        (["A", "a"], ["a", "A"], False),  # letters, told apart by nothing else
        (["cat", "dog"], ["cat", "dogs"], False),
        (["10", "2"], ["2", "10"], False),
    ],
)
def test_spelling(one: list[str], other: list[str], same: bool) -> None:
    first, second = lists(one, other)
    assert first.same(second) == same


def test_a_rename_needs_words_and_an_order_cannot_be_renamed() -> None:
    file, data = lists(["cat", "dog", "emu"], ["kitten", "dog", "emu"])
    with pytest.raises(ValueError, match=r"class 0 is 'cat' in the checkpoint and 'kitten' in the data; .*class_names"):
        check_same_classes([file], None, data)
    check_same_classes([file], ClassList("", data.names), data)
    permuted = ClassList("", ["emu", "cat", "dog"])
    with pytest.raises(ValueError, match="another order"):
        check_same_classes([file], permuted, permuted)
