"""Each base method, plain and with TMKD on top, through the Trainer; and which pairs cannot."""

import copy
import runpy
import warnings
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from helpers.methods import METHODS, NEED_A_MAP
from helpers.subprocess_run import run_script
from helpers.tiny import sgd, tmkd_module
from tmkd_lightning import Extractor, TMKDModule
from tmkd_lightning.distillers import CATKD, DIST, KD, RKD, SP, Sum, WarmUp
from tmkd_lightning.feature_extraction.output import MissingPartError

PLAIN = {"views": ["rgb"], "feature_weight": 0, "logit_weight": 0, "text_weight": 0}
ROOT = Path(__file__).parents[2]


class Terms(Callback):
    """Keeps the loss terms of each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer, *_) -> None:
        logged = trainer.logged_metrics.items()
        self.steps.append({name.removeprefix("train/"): value.item() for name, value in logged if "train/" in name})


class TinyViT(nn.Module):
    """Patches, one attention block, the class token: no map whose mean is the head's input."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.block = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True)
        self.fc = nn.Linear(width, 3)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patches(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(image), -1, -1), patches], 1)
        return self.fc(self.block(tokens)[:, 0])


@pytest.mark.parametrize("name", METHODS)
def test_by_default_a_feature_loss_stands_beside_it(net, fit, name) -> None:
    terms = Terms()
    module = TMKDModule(net(16), net(), distiller=METHODS[name](), optimizer=sgd)
    fit(module, callbacks=[terms], max_epochs=1)
    logit = set() if METHODS[name]().is_logit_term else {"logit"}
    assert all(step.keys() == {"ce", name, "feature", "loss"} | logit for step in terms.steps)
    assert all(step["loss"] == pytest.approx(sum(step.values()) - step["loss"]) for step in terms.steps)


@pytest.mark.parametrize("name", METHODS)
def test_plain_is_the_method_and_nothing_else(net, fit, name) -> None:
    terms = Terms()
    module = tmkd_module(net(16), net(), distiller=METHODS[name](), optimizer=sgd, **PLAIN)
    fit(module, callbacks=[terms], max_epochs=1)
    assert all(step.keys() == {"ce", name, "loss"} for step in terms.steps)
    assert all(step["loss"] == pytest.approx(step["ce"] + step[name]) for step in terms.steps)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("objective", "precision"), [("label", "bf16-mixed"), ("distillation", "32-true")])
def test_tmkd_on_top(net, fit, prompts, name, objective, precision) -> None:
    """Methods that match logits take the place of the logit loss; the fused teacher reaches each method."""
    terms, seen = Terms(), []
    distiller = METHODS[name]()
    distiller.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    module = tmkd_module(net(16), net(), distiller=distiller, fusion_objective=objective, optimizer=sgd)
    before = [parameter.clone() for parameter in module.teacher.weight_net.parameters()]
    fit(module, callbacks=[terms, prompts()], max_epochs=1, precision=precision)
    assert all(torch.tensor(list(step.values())).isfinite().all() for step in terms.steps)
    assert all(parameter.isfinite().all() for parameter in module.parameters())
    own = {"ce", name, "feature", "text", "loss"} | ({"fusion"} if objective == "label" else set())
    assert all(step.keys() == own | (set() if distiller.is_logit_term else {"logit"}) for step in terms.steps)
    assert all(output.logits.requires_grad == (objective == "distillation") for output in seen)
    if precision == "32-true":
        torch.testing.assert_close(seen[0].logits, module.teacher.extractor.head(seen[0].embedding))
    assert any(not old.equal(new) for old, new in zip(before, module.teacher.weight_net.parameters(), strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_one_view_weighing_nothing_is_bit_for_bit_the_plain_method(net, name) -> None:
    """The teacher is done before the student begins, so that its activations are gone: the peak of memory depends on
    that."""
    teacher, student, order = Extractor(net(16)), Extractor(net()), []
    image, label = torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    distiller = METHODS[name]()
    module = tmkd_module(teacher, student, distiller=distiller, **PLAIN)
    alone = copy.deepcopy(distiller)  # some have weights and a memory of their own
    module.log = module.log_dict = lambda *args, **kwargs: None
    module.verify_networks(image)
    module.teacher.frozen.register_forward_hook(lambda *_: order.append("teacher"))
    module.student_extractor.register_forward_pre_hook(lambda *_: order.append("student"))
    torch.manual_seed(1)
    ours = module.training_step((image, label), 0)
    assert order == ["teacher", "student"]
    torch.manual_seed(1)
    with torch.no_grad():
        taught = teacher.eval()(image)
    output = student(image)
    bare = nn.functional.cross_entropy(output.logits, label) + alone(output, taught, label)[name]
    assert ours.equal(bare)


@pytest.mark.parametrize("name", METHODS)
def test_a_pair_of_vits(fit, name) -> None:
    """Some methods read a map before a global pooling, and a ViT has none: its patches meet in a class token."""
    alone, nested = METHODS[name](), [KD(), Sum(METHODS[name]())]
    if name not in NEED_A_MAP:
        module = tmkd_module(TinyViT(16), TinyViT(), distiller=alone, optimizer=sgd, **PLAIN)
        assert fit(module).global_step == 8
        return
    for method in (alone, nested):  # named by itself in a list, too
        student = TinyViT()
        before = copy.deepcopy(student.state_dict())
        message = f"^{type(alone).__name__} reads feature_map, but TinyViT has no 4-D map"
        with pytest.raises(MissingPartError, match=message):
            fit(tmkd_module(TinyViT(16), student, distiller=method, optimizer=sgd, **PLAIN))
        assert all(value.equal(before[key]) for key, value in student.state_dict().items())


def without_batch_norm() -> nn.Module:
    """A network that may train on a single image."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


@pytest.mark.parametrize(
    ("method", "batch_size", "message"),
    [
        (RKD(), 2, "RKD compares the images .* batch_size of at least 3"),
        (SP(), 1, "SP compares the images .* batch_size of at least 2"),
        (WarmUp(DIST()), 1, "DIST compares the images .* batch_size of at least 2"),
        (CATKD(resolution=7), 6, "maps of 6x6 cannot be pooled to 7x7"),
    ],
)
@pytest.mark.parametrize("second", [False, True])
def test_what_a_method_cannot_compare_is_an_error_before_anything_is_trained(
    fit, loader, method, batch_size, message, second
) -> None:
    module = tmkd_module(without_batch_norm(), without_batch_norm(), distiller=method, optimizer=sgd, **PLAIN)
    if second:  # after a run on larger batches and images
        fit(module, train=loader(size=12), max_epochs=1)
    before = copy.deepcopy(module.student.state_dict())
    with pytest.raises(ValueError, match=message):
        fit(module, train=loader(batch_size=batch_size))
    assert all(value.equal(before[key]) for key, value in module.student.state_dict().items())


@pytest.mark.parametrize("name", ["rkd", "sp", "pkt", "dist", "srrl"])
def test_a_last_batch_of_one_costs_nothing_and_is_told_once(fit, loader, name) -> None:
    distiller = METHODS[name]()
    module = tmkd_module(without_batch_norm(), without_batch_norm(), distiller=distiller, **PLAIN)
    terms = Terms()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        fit(module, train=loader(count=7, batch_size=3), callbacks=[terms], max_epochs=3)
    assert [step[name] == 0 for step in terms.steps] == [False, False, True] * 3
    assert all(step["ce"] > 0 for step in terms.steps)
    assert sum("batch of 1 is too small" in str(one.message) for one in caught) == 1


@pytest.mark.slow
def test_two_processes_train_by_each_method(tmp_path) -> None:
    """Relations are those of the images on one device; the gradients are averaged, so both students stay the same, and
    each method leads elsewhere."""
    run_script(Path(__file__).with_name("ddp_equals_one.py"), tmp_path, "methods")
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert ranks[0].keys() == {*METHODS, "alone"}
    ends = [state.get("conv.weight", state.get("network.conv.weight")) for state in ranks[0].values()]
    assert all(not one.allclose(other) for index, one in enumerate(ends) for other in ends[:index])
    for name, students in ranks[0].items():
        assert all(one.equal(ranks[1][name][key]) for key, one in students.items() if "running" not in key), name


@pytest.mark.parametrize("script", ["own_model.py", "own_distiller.py"])
def test_examples_of_extension_run_and_are_short(script, tmp_path, monkeypatch) -> None:
    path = ROOT / "examples" / script
    assert len(path.read_text().splitlines()) < 50
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    runpy.run_path(str(path), run_name="__main__")


def test_a_list_of_methods_is_their_sum(net, fit) -> None:
    terms = Terms()
    methods = [KD(weight=0.9), CATKD(resolution=2), CATKD(resolution=4, name="cat_kd_4")]
    module = tmkd_module(net(16), net(), distiller=methods, optimizer=sgd, views=["rgb"], text_weight=0)
    fit(module, callbacks=[terms], max_epochs=1)
    assert terms.steps[0].keys() == {"ce", "kd", "cat_kd", "cat_kd_4", "feature", "loss"}  # KD is the logit term
    with pytest.raises(TypeError, match="Sum takes Distillers, got str"):
        tmkd_module(net(16), net(), distiller=["kd"])


@pytest.mark.slow
def test_methods_that_read_maps_compile_after_those_that_do_not(net, fit) -> None:
    for method in (KD(), SP(), KD(), CATKD()):
        fit(tmkd_module(net(16), net(), distiller=method, optimizer=sgd, compile=True, **PLAIN), max_epochs=1)
