"""A module of one's own: what its constructor was called with is what its checkpoint builds it from."""

from typing import Any

import pytest
import torch

from helpers.tiny import tmkd_module
from tmkd_lightning import ClassifierModule, TMKDModule
from tmkd_lightning.distillers import KD


class Free(TMKDModule):
    def __init__(self, extra: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.extra = extra


class Grandchild(Free):
    def __init__(self, deep: str = "sea", **kwargs) -> None:
        super().__init__(extra=len(deep), **kwargs)
        self.deep = deep


class Decides(TMKDModule):
    """Sets an argument itself, which a checkpoint must not bring back."""

    def __init__(self, *args, extra: int = 1, **kwargs) -> None:
        super().__init__(*args, views=["rgb"], distiller=KD(), text_weight=0.0, **kwargs)
        self.extra = extra


class Builds(ClassifierModule):
    """Needs no network from outside."""

    def __init__(self, make: type, width: int, temperature: float = 2.0) -> None:
        super().__init__(make(width))
        self.temperature = temperature


@pytest.fixture
def kept(net, fit, tmp_path):
    """Attaches a module to a trainer, and saves it."""

    def run(module):
        trainer = fit(ClassifierModule(net()), max_epochs=0)
        trainer.strategy.connect(module)
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        return tmp_path / "a.ckpt"

    return run


def test_free_arguments_come_back(net, kept) -> None:
    """Also those of a subclass of a subclass."""
    options = {"views": ["rgb", "edge"], "fusion": "mean", "temperature": 2.5}
    path = kept(Grandchild("water", teacher=net(), student=net(), **options))
    again = Grandchild.load_from_checkpoint(path, teacher=net(), student=net(), weights_only=True)
    assert (again.deep, again.extra) == ("water", 5)
    module = Free(3, teacher=net(), student=net(), **options)
    again = Free.load_from_checkpoint(kept(module), teacher=net(), student=net(), weights_only=True)
    assert (again.extra, again.text_alignment, again.teacher.weight_net) == (3, None, None)
    assert again.distiller.parts[0].temperature == 2.5
    assert all(value.equal(again.state_dict()[name]) for name, value in module.state_dict().items())
    assert dict(again.hparams) == {"extra": 3, **options}
    assert tmkd_module(net(), net()).hparams.text_dim == 512  # defaults too, where nothing is passed on
    assert {"teacher", "student", "optimizer"}.isdisjoint(tmkd_module(net(), net()).hparams)


def test_what_a_subclass_sets_or_builds_itself_is_not_passed_again(net, kept) -> None:
    path = kept(Decides(net(), net(), extra=4, ce_weight=0.5))
    again = Decides.load_from_checkpoint(path, teacher=net(), student=net(), weights_only=True)
    assert (again.extra, again.ce_weight, again.views.names) == (4, 0.5, ("rgb",))
    again = Builds.load_from_checkpoint(kept(Builds(net, 4)), make=net, weights_only=True)
    assert (again.network.fc.in_features, again.temperature) == (4, 2.0)


def test_an_object_of_a_subclass_is_asked_for(net, kept) -> None:
    class Holds(ClassifierModule):
        def __init__(self, network, part=None) -> None:
            super().__init__(network)
            self.part = part

    path = kept(Holds(net(), part=torch.nn.Linear(1, 1)))
    with pytest.raises(ValueError, match=r"made with \['part'\] of its own, which files do not hold: pass them again"):
        Holds.load_from_checkpoint(path, network=net(), weights_only=True)


def test_arguments_of_a_subclass_that_names_its_base(net, kept) -> None:
    """Not by super(), from a method beside the constructor, and with an argument deleted on the way."""

    class Named(ClassifierModule):
        def __init__(self, width: int = 1, **options: Any) -> None:
            self.begin(options)
            self.width = width
            del width

        def begin(self, options: dict[str, Any]) -> None:
            ClassifierModule.__init__(self, net(), **options)

    path = kept(Named(width=9, class_names=["a", "b", "c"]))
    again = Named.load_from_checkpoint(path, weights_only=True)
    assert (again.width, again.class_names) == (9, ["a", "b", "c"])
