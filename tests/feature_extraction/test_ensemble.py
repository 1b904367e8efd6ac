"""Several teachers as one: the averages written out, each member's own images, and every place a teacher goes to."""

from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from helpers.tiny import CLASSES, Net, sgd, tmkd_module
from tmkd_lightning import ClassifierModule, Ensemble, Extractor, TMKDModule
from tmkd_lightning.callbacks import TeacherCache
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.distillers import CATKD, KD, RKD
from tmkd_lightning.export import export_student
from tmkd_lightning.figures import OutputCollector
from tmkd_lightning.models import Probe
from tmkd_lightning.teacher.cache.fingerprint import teacher_fingerprint
from tmkd_lightning.teacher.frozen import FrozenTeacher

KD_ALONE: dict[str, Any] = {"distiller": KD(), "feature_weight": 0, "text_weight": 0, "optimizer": sgd}


def two(classes: int = 3) -> list[Extractor]:
    """Of different statistics, sizes and widths, with BatchNorm statistics that are not those of a fresh network."""
    torch.manual_seed(7)
    networks = [Net(8, classes), Net(12, classes)]
    for network in networks:
        network.train()(torch.rand(8, 3, 8, 8))
    one = Extractor(networks[0].eval(), mean=(0.1, 0.2, 0.3), std=(0.5, 0.4, 0.3))
    return [one, Extractor(networks[1].eval(), mean=(0, 0, 0), std=(1, 1, 1), image_size=12)]


class Constant(nn.Module):
    """Gives the same logits for all images."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.register_buffer("logits", torch.tensor(logits))

    def forward(self, image: Tensor) -> Tensor:
        return self.logits.expand(len(image), -1)


@pytest.mark.parametrize(("average", "expected"), [("probabilities", [0.55, 0.45]), ("logits", [0.6, 0.4])])
def test_the_averages_by_hand(average: Any, expected: list[float]) -> None:
    """Of 0.9 and 0.2: (0.9 + 0.2) / 2; and odds of sqrt(9 * 1/4) = 1.5."""
    members = [Extractor(Constant(torch.tensor(p).log().tolist()), num_classes=2) for p in ([0.9, 0.1], [0.2, 0.8])]
    logits = Ensemble(members, average)(torch.rand(3, 3, 4, 4)).logits
    torch.testing.assert_close(logits.softmax(1), torch.tensor(expected).expand(3, 2))
    if average == "probabilities":  # and not another shift of it
        torch.testing.assert_close(logits.exp().sum(1), torch.ones(3))


def test_large_logits_do_not_overflow() -> None:
    members = [Extractor(Constant(logits), num_classes=2) for logits in ([1000.0, 0.0], [0.0, 1000.0])]
    torch.testing.assert_close(Ensemble(members)(torch.rand(1, 3, 4, 4)).logits.exp(), torch.tensor([[0.5, 0.5]]))


def test_each_member_normalises_and_resizes_by_itself() -> None:
    members, image = two(), torch.rand(4, 3, 8, 8)
    output = Ensemble(members, "logits")(image)
    alone = [member(image) for member in members]
    torch.testing.assert_close(output.logits, (alone[0].logits + alone[1].logits) / 2)
    for part in ("embedding", "feature_map", "head_weight", "cam"):
        of_first = alone[0].cam if part == "cam" else alone[0].require(part)  # type: ignore[arg-type]
        assert (output.cam if part == "cam" else output.require(part)).equal(of_first)  # type: ignore[arg-type]
    whole = (image * 255).byte()
    assert Ensemble(members)(whole).logits.equal(Ensemble(members)(whole / 255).logits)


def test_members_of_two_precisions() -> None:
    members, image = two(), torch.rand(2, 3, 8, 8)
    expected = Ensemble(members)(image).logits
    members[0].network.half()
    ensemble = Ensemble(members)
    found = ensemble(image)
    assert (found.logits.dtype, found.embedding.dtype) == (torch.float32, torch.float16)
    torch.testing.assert_close(found.logits, expected, rtol=1e-2, atol=1e-2)
    with torch.autocast("cpu", torch.bfloat16):
        assert ensemble(image).logits.dtype == torch.float32


def test_what_is_no_ensemble() -> None:
    with pytest.raises(ValueError, match="must have the same classes, but their numbers are: Net 3, Net 4"):
        Ensemble([Net(), Net(num_classes=4)])
    for members, got in (([], "an empty one"), (Net(), "a Net"), ("resnet18", "a str")):
        with pytest.raises(ValueError, match=f"at least one network, got {got}$"):
            Ensemble(members)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="average must be 'probabilities' or 'logits', got 'votes'"):
        Ensemble([Net()], "votes")  # type: ignore[arg-type]
    named = [Extractor(Net(), class_names=names) for names in (["a", "b", "c"], ["a", "c", "b"])]
    with pytest.raises(ValueError, match="class 1 is 'b' in member Net and 'c' in member Net"):
        Ensemble(named)
    with pytest.raises(TypeError, match=r"is a ClassifierModule, which normalises .*: pass the .* module.extractor"):
        Ensemble([Net(), ClassifierModule(Net())])
    with pytest.raises(ValueError, match="holds the weights of one network, but the teacher is an Ensemble"):
        tmkd_module(Ensemble(two()), Net(), teacher_checkpoint="teacher.ckpt", **KD_ALONE)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_member_whose_head_is_not_fitted(fit: Any, order: tuple[int, int]) -> None:
    """Its logits of 0 would draw the average to equal probabilities, wherever it stands."""
    network = Net(16)
    network.fc = nn.Identity()
    members = [Net(), Probe(network, num_classes=3)]
    ensemble = Ensemble([members[index] for index in order])
    assert not ensemble.knows_classes
    with pytest.raises(ValueError, match=r"KD would read the logits of Ensemble, .* fit its members' with tmkd probe"):
        fit(tmkd_module(ensemble, Net(), fusion="mean", **KD_ALONE))
    nn.init.normal_(members[1].head.weight)
    assert ensemble.knows_classes


def test_classes_are_moved_in_all_members_or_in_none() -> None:
    ensemble, image = Ensemble(two()), torch.rand(2, 3, 8, 8)
    before = ensemble(image).logits
    ensemble.reorder_classes([2, 0, 1])
    torch.testing.assert_close(ensemble(image).logits, before[:, [2, 0, 1]])
    mixed = Ensemble([two()[0], Extractor(Constant([1.0, 2.0, 3.0]), num_classes=3)])
    before = mixed(image).logits
    with pytest.raises(ValueError, match="the classes of Constant cannot be put into another order"):
        mixed.reorder_classes([2, 0, 1])
    assert mixed(image).logits.equal(before)


@pytest.mark.parametrize("options", [{}, {"distiller": CATKD()}, {"distiller": RKD()}, {"compile": True}])
def test_an_ensemble_teaches(fit: Any, loader: Any, monkeypatch: Any, options: dict[str, Any]) -> None:
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    compiled: list[str] = []
    ensemble = Ensemble(two())
    before = {key: value.clone() for key, value in ensemble.state_dict().items()}
    module = tmkd_module(ensemble, Net(), views=["rgb", "edge"], fusion="mean", **{**KD_ALONE, **options})
    trainer = fit(module, train=loader(), val=loader(), max_epochs=1)
    assert trainer.global_step == 4
    assert all(value.equal(before[key]) for key, value in ensemble.state_dict().items())  # BatchNorm's statistics too
    assert [member.keep_map for member in ensemble.members] == ["feature_map" in module.distiller.reads, False]
    assert not any("teacher" in key for key in module.state_dict())
    assert len(compiled) == (3 if options.get("compile") else 0)  # the student and both members


def test_a_cache_stores_the_logits_and_equals_a_run_without(fit: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """CAT-KD reads maps, and L_feat embeddings, both of the first member; KD reads the logits of both."""

    def train(*callbacks: TeacherCache) -> dict[str, Tensor]:
        torch.manual_seed(0)
        data = DigitsDataModule(train_samples=20, batch_size=8, image_size=8, augmentation_replicas=1)
        options = {"distiller": [KD(), CATKD()], "feature_weight": 1, "text_weight": 0, "optimizer": sgd}
        options |= {"views": ["rgb", "edge"], "fusion": "mean"}
        module = tmkd_module(Ensemble(two(10)), Net(num_classes=10), **options)
        fit(module, datamodule=data, max_epochs=2, callbacks=list(callbacks), limit_val_batches=0)
        return module.student.state_dict()

    live = train()
    filled = train(TeacherCache(str(tmp_path / "cache"), "float32"))
    with monkeypatch.context() as patch:
        patch.setattr(FrozenTeacher, "forward", None)  # the teacher must not run
        read = train(TeacherCache(str(tmp_path / "cache"), "float32"))
    for key, value in live.items():
        assert value.equal(filled[key]), key
        assert value.equal(read[key]), key
    (folder,) = (tmp_path / "cache").iterdir()
    assert {path.name.split(".")[0] for path in folder.glob("*.float32.npy")} >= {"logits", "embedding"}


def test_whatever_decides_the_answers_is_in_the_fingerprint() -> None:
    found = [
        teacher_fingerprint(Ensemble(two()), None),
        teacher_fingerprint(Ensemble(two(), "logits"), None),
        teacher_fingerprint(Ensemble(two()[::-1]), None),
        teacher_fingerprint(Ensemble(two()[:1]), None),
    ]
    assert all(one != other for count, one in enumerate(found) for other in found[:count])
    confirmed = Ensemble(two())
    confirmed(torch.rand(2, 3, 8, 8))
    confirmed.keep_map = False
    assert teacher_fingerprint(confirmed, None) == found[0]


def test_figures_and_exports_take_it(tmp_path: Path) -> None:
    ensemble, image = Ensemble(two()), torch.rand(3, 3, 8, 8)
    expected = ensemble(image)
    collector = OutputCollector({"teacher": ensemble}, CLASSES, examples=1)
    collector.update(image, torch.tensor([0, 1, 2]))
    collected = collector.compute()
    torch.testing.assert_close(collected.outputs["teacher"].logits, expected.logits)
    torch.testing.assert_close(collected.example_outputs["teacher"].feature_map, expected.feature_map[:1])
    export_student(ensemble, tmp_path / "all.pt2", format="torch_export", image_size=8)
    torch.testing.assert_close(torch.export.load(tmp_path / "all.pt2").module()(image), expected.logits)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of jsonargparse
def test_by_class_path() -> None:
    networks = [
        {"class_path": "helpers.tiny.Net", "init_args": {"width": width, "num_classes": 10}} for width in (4, 6)
    ]
    members = [{"class_path": "tmkd_lightning.Extractor", "init_args": {"network": networks[0], "image_size": 16}}]
    init = {"members": [*members, networks[1]], "average": "logits"}
    teacher = {"class_path": "tmkd_lightning.Ensemble", "init_args": init}
    model = {"class_path": "tmkd_lightning.TMKDModule", "init_args": {"teacher": teacher, "student": networks[0]}}
    parser = ArgumentParser()
    parser.add_subclass_arguments(TMKDModule, "model")
    built = parser.instantiate_classes(parser.parse_object({"model": model})).model.teacher.extractor
    assert isinstance(built, Ensemble)
    assert ([member.image_size for member in built.members], built.average) == ([(16, 16), None], "logits")
