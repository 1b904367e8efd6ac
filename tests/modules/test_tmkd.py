"""The step against equations written out, and what training must leave alone."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from helpers.tiny import tmkd_module
from tmkd_lightning import PAPER, ClassifierModule, Extractor, TMKDModule, View
from tmkd_lightning.callbacks import PromptEmbeddings, StepSeeds, TeacherAccuracyCheck
from tmkd_lightning.distillers import KD, Distiller
from tmkd_lightning.feature_extraction.output import MissingPartError
from tmkd_lightning.views import edge_view, high_frequency_view

NAN, INF = float("nan"), float("inf")
FAST = {"optimizer": lambda params: torch.optim.SGD(params, lr=0.05)}


class Record(Callback):
    """Keeps what was logged at each step, and the learning rates that it began with."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.rates: list[list[float]] = []

    def on_train_batch_start(self, trainer, *_) -> None:
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    def on_train_batch_end(self, trainer, *_) -> None:
        self.steps.append({name: value.item() for name, value in trainer.logged_metrics.items()})


def filled(module: TMKDModule, text_dim: int = 512) -> TMKDModule:
    """Gives the module text embeddings without a callback, and confirms its networks."""
    shape = module.prompt_bank.embeddings.shape
    module.prompt_bank.fill(
        F.normalize(torch.randn(shape), dim=-1), F.normalize(torch.randn(shape[1], text_dim), dim=-1)
    )
    module.log = module.log_dict = lambda *args, **kwargs: None  # no trainer to log to
    return module


def test_total_loss_is_equation_12_written_out(net) -> None:
    """No two numbers are the same, and the views weigh differently, so that none can stand for another."""
    numbers = {"temperature": 2.0, "feature_temperature": 3.0, "text_temperature": 0.5, "noise_scale": 0.0}
    factors = {"ce_weight": 0.3, "logit_weight": 1.1, "feature_weight": 0.7, "text_weight": 0.6}
    module = filled(tmkd_module(net(16), net(), fusion_objective="distillation", **numbers, **factors))
    with torch.no_grad():
        module.teacher.weight_net.output.weight.mul_(100)
        module.teacher.extractor.head.weight.mul_(10)
    image, label = torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    assert module.teacher.view_weights(label).std(0).min() > 0.05
    loss = module.training_step((image, label), 0)

    teacher, student, bank = module.teacher.extractor, module.student_extractor, module.prompt_bank
    student_output = student(image)
    expected = 0.3 * F.cross_entropy(student_output.logits, label)
    seen = [teacher(view) for view in (image, edge_view(image), high_frequency_view(image))]
    for i, y in enumerate(label.tolist()):
        row = torch.cat([bank.embeddings[v, y] for v in range(3)])
        net_ = module.teacher.weight_net
        hidden = (net_.hidden.weight @ row + net_.hidden.bias).clamp(min=0)
        w = torch.softmax(net_.output.weight @ hidden + net_.output.bias, 0)
        logits = sum(w[v] * seen[v].logits[i] for v in range(3))
        embedding = sum(w[v] * seen[v].embedding[i] for v in range(3))
        projected = module.distiller.parts[1].projector(student_output.embedding[i])
        for given, target, weight, t in (
            (student_output.logits[i], logits, 1.1, 2),
            (projected, embedding, 0.7, 3),
        ):
            p, q = torch.softmax(target / t, 0), torch.softmax(given / t, 0)
            expected = expected + weight * t**2 * (p * (p.log() - q.log())).sum() / len(label)
        anchor = module.text_alignment
        v = F.normalize(anchor.image_head(student_output.embedding[i]), dim=0)
        texts = [F.normalize(anchor.text_head(bank.anchors[k]), dim=0) for k in range(3)]
        scores = torch.stack([(v @ t) / 0.5 for t in texts])
        expected = expected + 0.6 * -(scores[y] - scores.logsumexp(0)) / len(label)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_defaults_of_the_loss(net) -> None:
    """Weights, temperatures and noise as docs/method.md states them: no texts, no views, a strong feature loss."""
    module = TMKDModule(net(16), net())
    logit, feature = module.distiller.parts
    assert (module.ce_weight, logit.weight, feature.weight, module.text_alignment) == (1.0, 1.0, 50.0, None)
    assert (logit.temperature, feature.temperature, feature.noise_scale) == (4.0, 1.0, 0.1)
    assert (module.views.names, module.teacher.weight_net, module.fusion_objective) == (("rgb",), None, "label")
    assert module.prompt_bank is None  # so that nothing asks for CLIP
    assert not any(extractor.keep_map for extractor in module.extractors())  # nothing reads maps


def test_the_papers_settings(net) -> None:
    module = TMKDModule(net(16), net(), **PAPER)
    logit, feature = module.distiller.parts
    assert (module.ce_weight, logit.weight, feature.weight, module.text_alignment.weight) == (1.0, 1.0, 1.0, 0.8)
    temperatures = logit.temperature, feature.temperature, module.text_alignment.temperature
    assert (*temperatures, feature.noise_scale) == (4.0, 4.0, 0.07, 0.1)
    assert (module.views.names, module.fusion_objective) == (("rgb", "edge", "high_frequency"), "distillation")
    assert module.student_views.views.names == ("rgb",)
    assert (module.teacher.weight_net.hidden.out_features, module.text_alignment.image_head.out_features) == (256, 128)
    assert not any(extractor.keep_map for extractor in module.extractors())  # nothing reads maps


def test_numbers_reach_the_parts_that_they_are_of(net) -> None:
    numbers = {"fusion_hidden": 5, "text_head_dim": 7, "noise_scale": 0.4, "text_negatives": 6, "teacher_chunk": 4}
    module = tmkd_module(net(16), net(), text_dim=20, **numbers)
    assert module.teacher.weight_net.hidden.weight.shape == (5, 60)
    assert module.text_alignment.text_head.weight.shape == (7, 20)
    assert (module.distiller.parts[1].noise_scale, module.text_alignment.negatives) == (0.4, 6)
    assert module.teacher.frozen.chunk == 4


def test_plain_kd_is_a_hand_written_loop_bit_for_bit(net, loader, fit) -> None:
    teacher, student = net(16), net()
    by_hand, record = copy.deepcopy(student).to(memory_format=torch.channels_last), Record()
    module = tmkd_module(
        teacher,
        student,
        distiller=KD(weight=0.9),
        views=["rgb"],
        ce_weight=0.1,
        feature_weight=0,
        logit_weight=0,
        text_weight=0,
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0),
        **FAST,
    )
    trainer = fit(module, callbacks=[record])

    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.05)
    teacher = copy.deepcopy(module.teacher.extractor.network).eval()
    losses = []
    for _ in range(2):
        for image, label in loader():
            image = (image.float() / 255 - mean) / std
            with torch.no_grad():
                target = F.log_softmax(teacher(image) / 4, dim=1)
            logits = by_hand(image)
            ce = F.cross_entropy(logits, label)
            kd = F.kl_div(F.log_softmax(logits / 4, dim=1), target, reduction="batchmean", log_target=True) * 16
            loss = 0.1 * ce + 0.9 * kd
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert [step["train/loss"] for step in record.steps] == losses
    for ours, theirs in zip(module.student.state_dict().values(), by_hand.state_dict().values(), strict=True):
        assert ours.equal(theirs)
    assert module.prompt_bank is None
    assert module.teacher.weight_net is None
    assert not any(isinstance(callback, PromptEmbeddings) for callback in trainer.callbacks)


def test_training_moves_everything_but_the_teacher(net, prompts, fit) -> None:
    module = tmkd_module(net(16), net(), **FAST)
    before = copy.deepcopy(module)
    fit(module, callbacks=[prompts()])

    assert not any(part.training for part in module.train().teacher.frozen.modules())
    for old, new in zip(before.teacher.frozen.parameters(), module.teacher.frozen.parameters(), strict=True):
        assert old.equal(new)
    for old, new in zip(before.teacher.frozen.buffers(), module.teacher.frozen.buffers(), strict=True):
        assert old.equal(new)  # BatchNorm's statistics
    for part in ("extractor", "teacher.weight_net", "distiller", "text_alignment"):
        pairs = zip(before.get_submodule(part).parameters(), module.get_submodule(part).parameters(), strict=True)
        assert all(not old.equal(new) for old, new in pairs), part
    weights = module.teacher.view_weights(torch.arange(3))
    assert weights.std(0).min() > 1e-6  # the classes are weighed differently
    assert weights.sum(1).allclose(torch.ones(3))


def test_fusion_learns_from_the_label_alone_when_told_to(net) -> None:
    torch.manual_seed(0)
    module = filled(tmkd_module(net(16), net(), fusion_objective="label"))
    image, label = torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    module.training_step((image, label), 0).backward()
    got = [p.grad.clone() for p in module.teacher.weight_net.parameters()]
    module.zero_grad()
    F.cross_entropy(module.teacher(image, label).logits, label).backward()
    for one, other in zip(got, module.teacher.weight_net.parameters(), strict=True):
        assert one.allclose(other.grad)


def test_distillation_losses_reach_the_weight_net(net) -> None:
    module = filled(tmkd_module(net(16), net(), fusion_objective="distillation", text_weight=0))
    module.training_step((torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])), 0).backward()
    assert all(p.grad.abs().sum() > 0 for p in module.teacher.weight_net.parameters())
    assert all(p.grad is None for p in module.teacher.frozen.parameters())


def test_fusion_by_image_tells_images_of_one_class_apart(net) -> None:
    torch.manual_seed(0)
    module = filled(tmkd_module(net(16), net(), fusion="image"))
    image, label = torch.rand(4, 3, 8, 8), torch.tensor([1, 1, 1, 1])
    module.training_step((image, label), 0).backward()
    evidence = module.teacher.weight_net.evidence.weight
    assert evidence.grad.abs().min() > 0
    evidence.data = torch.tensor([[2.0, 0.0]])
    found = module.teacher(image, label).logits
    of_class = module.teacher.view_weights(label)
    views = module.teacher.forward_views(image).logits.unflatten(0, (3, 4))
    weights = of_class * views.softmax(2)[..., 1].T.square()  # exp of twice the label's log-probability
    weights = weights / weights.sum(1, keepdim=True)
    torch.testing.assert_close(found, torch.einsum("bv,vbk->bk", weights, views))
    assert weights.std(0).min() > 1e-4
    assert of_class.std(0).max() < 1e-6


def test_fusion_by_image_of_one_view_is_warned_of(net) -> None:
    with pytest.warns(UserWarning, match="fusion='image' weighs several views, and views has 'edge' alone: name more"):
        tmkd_module(net(16), net(), views=["edge"], fusion="image")


def test_mean_fusion_weighs_views_equally(net) -> None:
    module = tmkd_module(net(16), net(), fusion="mean", text_weight=0)
    module.log_dict = lambda *args, **kwargs: None
    image, label = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    teacher = module.teacher.frozen
    by_hand = sum(teacher(view).logits for view in (image, edge_view(image), high_frequency_view(image))) / 3
    assert module.teacher(image, label).logits.allclose(by_hand, atol=1e-6)
    assert module.prompt_bank is None  # nothing reads texts


def test_normalised_batches_give_the_losses_of_plain_ones(net) -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    plain = filled(tmkd_module(net(16), net(), noise_scale=0))
    image, label = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    normalised = (image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    expected = plain.training_step((image, label), 0)
    plain.normalized_with = tuple(torch.tensor(v).view(3, 1, 1) for v in (mean, std))
    assert plain.training_step((normalised, label), 0).item() == pytest.approx(expected.item(), rel=1e-4)


# Checkpoints


@pytest.fixture
def checkpointed(fit, prompts, tmp_path):
    """Trains a module and gives its last checkpoint."""

    def run(module, *callbacks: Callback) -> Path:
        callbacks = (prompts(), *callbacks, ModelCheckpoint(tmp_path, filename="last"))
        fit(module, callbacks=[*callbacks], enable_checkpointing=True)
        return tmp_path / "last.ckpt"

    return run


@pytest.mark.parametrize("callbacks", [[], [WeightAveraging()]], ids=["as it is", "averaged"])
def test_checkpoint_is_small_safe_and_without_the_teacher(net, checkpointed, callbacks) -> None:
    module = tmkd_module(net(256), net(64), optimizer=lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9))
    path = checkpointed(module, *callbacks)
    content = torch.load(path, weights_only=True)
    state = content["state_dict"]
    assert ("averaging_state" in content) == bool(callbacks)
    for key in [*state, *content.get("averaging_state", {}), *content.get("current_model_state", {})]:
        assert not [word for word in ("teacher", "text_encoder", "prompt_bank") if word in key]
    assert {key.removeprefix("student.") for key in state if key.startswith("student.")} == set(
        module.student.state_dict()
    )
    trained = sum(p.numel() * 4 for p in module.parameters() if p.requires_grad)
    copies = 2 + len(callbacks)  # SGD's momentum doubles it, averages are a copy more; the rest is headers
    assert path.stat().st_size <= 1.05 * trained * copies + 20_000


def test_student_needs_no_teacher_file_and_has_its_statistics(net, checkpointed, loader, tmp_path) -> None:
    teacher_file = tmp_path / "teacher.pt"
    torch.save(net(16).state_dict(), teacher_file)
    student = Extractor(net(), mean=(0.1, 0.2, 0.3), std=(1, 2, 3))
    options = {"teacher_checkpoint": str(teacher_file), "class_names": ["r", "g", "b"], **FAST}
    module = tmkd_module(net(16), student, **options)
    path = checkpointed(module)
    assert all(a.equal(b) for a, b in zip(torch.load(teacher_file).values(), teacher_state(module), strict=True))
    teacher_file.unlink()

    again = TMKDModule.load_from_checkpoint(path, teacher=net(16), student=net(), weights_only=True)
    assert again.class_names == ["r", "g", "b"]  # plain hyperparameters came along
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    (metrics,) = trainer.validate(again, loader(), verbose=False)
    assert 0 <= metrics["val/top1"] <= 1
    (first, *_) = trainer.predict(again, loader())
    image, _ = next(iter(loader()))
    assert first.allclose(module.eval()(image).softmax(1), atol=1e-6)


def teacher_state(module: TMKDModule):
    return module.teacher.extractor.network.state_dict().values()


def test_teacher_keys_of_a_foreign_checkpoint_are_passed_over_and_others_are_not(net) -> None:
    module = tmkd_module(net(16), net())
    before = copy.deepcopy(list(teacher_state(module)))
    state = dict(module.state_dict())
    module.load_state_dict({**state, "teacher.extractor.network.conv.weight": torch.zeros(1)})
    assert all(a.equal(b) for a, b in zip(before, teacher_state(module), strict=True))
    with pytest.raises(RuntimeError, match=r"student\.stranger|stranger"):
        module.load_state_dict({**state, "student.stranger": torch.zeros(1)})
    del state["student.conv.weight"]
    with pytest.raises(RuntimeError, match=r"conv\.weight"):
        module.load_state_dict(state)


def test_own_views_are_trained_on_and_must_be_passed_again(net, checkpointed) -> None:
    negative = View("negative", lambda image: 1 - image, "a negative of a {class}")
    module = tmkd_module(net(16), net(), views=["rgb", negative], **FAST)
    path = checkpointed(module)
    shares = [module.trainer.logged_metrics[f"fusion/{name}"].item() for name in ("rgb", "negative")]
    assert sum(shares) == pytest.approx(1)
    networks = {"teacher": net(16), "student": net(), "weights_only": True}
    with pytest.raises(ValueError, match=r"made with \['views'\] of its own"):
        TMKDModule.load_from_checkpoint(path, **networks, views=["rgb", "edge"])
    again = TMKDModule.load_from_checkpoint(path, **networks, views=["rgb", negative])
    assert again.views.names == ("rgb", "negative")


# What is refused, and when


def test_a_pair_that_is_refused_stays_trainable(net) -> None:
    one = net()
    with pytest.raises(ValueError, match=r"share weights.*deepcopy"):
        tmkd_module(one, one)
    assert all(parameter.requires_grad for parameter in one.parameters())
    with pytest.raises(ValueError, match="teacher Net has 4 classes, student Net has 3"):
        tmkd_module(net(8, 4), net())
    with pytest.raises(ValueError, match="student Net has nothing to train"):
        tmkd_module(net(), net().requires_grad_(False))


class ReadsMaps(Distiller):
    reads = frozenset({"feature_map"})

    def forward(self, student, teacher, label):
        return {"map": (student.require("feature_map").mean() - teacher.require("feature_map").mean()) ** 2}


class ForgetsToSay(ReadsMaps):
    reads = frozenset()


class Misspelt(ReadsMaps):
    reads = frozenset({"feature_maps", "embedding"})


MISSPELT = (
    r"^Misspelt names 'feature_maps' .*choose from \['logits', 'embedding', 'feature_map', 'head_weight', 'maps'\]$"
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion": "max"}, "fusion must be one of"),
        ({"fusion_objective": "ce"}, "fusion_objective must be one of"),
        ({"text_weight": -1}, "text_weight must be at least 0"),
        ({"views": ["rgb", "depth"]}, "unknown view 'depth'"),
        ({"class_names": ["a", "b"]}, "2 class names for a network of 3 classes"),
        ({"normalized_with": ((0.5,), (0.5,))}, "three finite values each"),
        ({"normalized_with": ((NAN, 0, 0), (1, 1, 1))}, r"got \(nan, 0, 0\), \(1, 1, 1\)"),
        ({"normalized_with": ((0, 0, 0), (1, 1, NAN))}, r"got \(0, 0, 0\), \(1, 1, nan\)"),
        ({"temperature": INF}, "^temperature must be above 0 and finite, got inf"),
        ({"temperature": "4"}, "^temperature must be above 0 and finite, got '4'"),
        ({"feature_temperature": INF}, "^feature_temperature must be above 0 and finite, got inf"),
        ({"text_temperature": 0, "text_weight": 0}, "^text_temperature must be above 0 and finite, got 0"),
        ({"ce_weight": "a"}, "^ce_weight must be at least 0 and finite, got 'a'"),
        ({"head_lr_factor": NAN}, "^head_lr_factor must be above 0 and finite, got nan"),
        ({"head_lr_factor": INF}, "^head_lr_factor must be above 0 and finite, got inf"),
        ({"text_dim": 0}, "^text_dim must be a whole number, at least 1, got 0"),
        ({"text_head_dim": -1}, "^text_head_dim must be a whole number, at least 1, got -1"),
        ({"fusion_hidden": 0}, "^fusion_hidden must be a whole number, at least 1, got 0"),
        ({"fusion_hidden": True}, "^fusion_hidden must be a whole number, at least 1, got True"),
        ({"teacher_chunk": 2.5}, "^teacher_chunk must be a whole number, at least 1, got 2.5"),
        ({"optimizer": 5}, "^optimizer must be a function from parameter groups to an optimizer, got 5"),
        ({"lr_scheduler": 5}, "^lr_scheduler must be a function from an optimizer to a scheduler, got 5"),
        ({"text_negatives": 0}, "^text_negatives must be"),
        ({"distiller": "kd"}, "must be a Distiller, got str"),
        ({"distiller": nn.Linear(1, 1)}, "got Linear"),
        ({"distiller": Misspelt()}, MISSPELT),
        ({"distiller": [ReadsMaps(), Misspelt()]}, MISSPELT),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_at_once(net, options, message) -> None:
    error = TypeError if message.endswith(("got str", "got Linear")) else (ValueError, TypeError)
    with pytest.raises(error, match=message):
        tmkd_module(net(), net(), **options)


class NoMap(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(192, 3))


def test_method_that_reads_maps_gets_them_or_refuses_before_the_first_step(net, fit) -> None:
    options = {"views": ["rgb"], "text_weight": 0, "distiller": ReadsMaps()}
    fit(tmkd_module(net(16), net(), **options), max_steps=1)
    module = tmkd_module(NoMap(), net(), **options)
    before = copy.deepcopy(module.student.state_dict())
    with pytest.raises(MissingPartError, match="ReadsMaps reads feature_map, but NoMap has no"):
        fit(module)
    assert all(a.equal(b) for a, b in zip(before.values(), module.student.state_dict().values(), strict=True))
    module = tmkd_module(net(16), net(), **options | {"distiller": ForgetsToSay()})
    with pytest.raises(MissingPartError, match=r"no feature_map .* only if it names 'feature_map' in reads"):
        fit(module, max_steps=1)


def test_what_is_missing_is_noticed_before_training(net, fit, tmp_path) -> None:
    class Idle(PromptEmbeddings):
        def setup(self, *_, **__) -> None:
            asked.append(self)

    asked: list[Idle] = []
    with pytest.raises(FileNotFoundError, match=r"gone\.ckpt"):
        fit(tmkd_module(net(), net(), teacher_checkpoint=str(tmp_path / "gone.ckpt")), callbacks=[Idle()])
    assert asked == []  # named before any prompt is encoded
    with pytest.raises(ValueError, match="add the callback PromptEmbeddings"):
        fit(tmkd_module(net(), net()), callbacks=[Idle()])
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "teacher.pt")
    with pytest.raises(ValueError, match=r"missing keys: conv\.weight"):
        fit(tmkd_module(net(), net(), teacher_checkpoint=str(tmp_path / "teacher.pt")), callbacks=[Idle()])


# Callbacks


def test_callbacks_are_supplied_only_where_missing_and_do_a_classifier_no_harm(net, prompts, fit, loader) -> None:
    mine = [prompts(), TeacherAccuracyCheck(batches=0)]
    trainer = fit(tmkd_module(net(), net()), callbacks=[*mine], max_steps=1)
    assert [c for c in trainer.callbacks if isinstance(c, (PromptEmbeddings, TeacherAccuracyCheck))] == mine
    fit(ClassifierModule(net()), val=loader(), callbacks=[prompts(), TeacherAccuracyCheck()], max_steps=1)


# Speed that must not change results


def test_ddp_leaves_teacher_and_bank_alone(net) -> None:
    module = tmkd_module(net(16), net())
    ignored = set(module._ddp_params_and_buffers_to_ignore)
    everything = {name for name, _ in [*module.named_parameters(), *module.named_buffers()]}
    assert ignored == {name for name in everything if name.startswith(("teacher.frozen.", "prompt_bank."))}
    assert "teacher.frozen.extractor.network.bn.running_mean" in ignored


def test_heads_have_a_learning_rate_of_their_own_and_all_follow_the_schedule(net, prompts, fit) -> None:
    """24 steps: warm-up 1, a tenth after 15, 18, 21."""
    module, record = tmkd_module(net(16), net(), head_lr_factor=10, **FAST), Record()
    fit(module, callbacks=[prompts(), record], max_epochs=6)
    exponents = [[math.log10(rate / 0.05) for rate in rates] for rates in record.rates]
    network, heads = zip(*exponents, strict=True)
    assert network == pytest.approx([0] * 15 + [-1] * 3 + [-2] * 3 + [-3] * 3)
    assert heads == pytest.approx([exponent + 1 for exponent in network])
    network, heads = module.optimizers().param_groups
    assert {id(p) for p in network["params"]} == {id(p) for p in module.student.parameters()}
    assert len(heads["params"]) == 4 + 2 + 4  # WeightNet, projector, text heads


# Mistakes that would cost a whole run


def test_student_that_was_left_evaluating_is_woken(net, fit) -> None:
    student = net().eval()
    with pytest.warns(UserWarning, match="Net was in evaluation mode and is put into training mode"):
        fit(tmkd_module(net(16), student, views=["rgb"], text_weight=0), max_steps=1)
    assert student.bn.num_batches_tracked == 1


def test_module_as_teacher_keeps_its_statistics(net) -> None:
    trained = ClassifierModule(Extractor(net(16), mean=(0.1, 0.2, 0.3), std=(1, 2, 3))).eval()
    image = torch.rand(2, 3, 8, 8)
    assert tmkd_module(trained, net()).teacher.frozen(image).logits.equal(trained(image))


def test_networks_are_laid_out_for_fast_convolutions_and_stay_the_same(net, fit) -> None:
    """Whatever integers the labels are."""
    rows = [(torch.rand(3, 8, 8), torch.tensor(index % 3, dtype=torch.int32)) for index in range(6)]
    module = tmkd_module(net(16), net(), views=["rgb"], text_weight=0, optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    before = {key: value.clone() for key, value in module.student.named_parameters()}
    fit(module, train=DataLoader(rows, batch_size=3), max_epochs=1)
    for network in (module.student, module.teacher.extractor.network):
        assert network.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(value.equal(before[key]) for key, value in module.student.named_parameters())


def test_views_are_weighed_for_the_classes_of_the_batch_alone(net) -> None:
    """Eleven classes and four images: the same weights and gradients as from all classes, from four rows."""
    module = tmkd_module(net(16, num_classes=11), net(num_classes=11))
    module.prompt_bank.fill(torch.randn(3, 11, 512), torch.randn(11, 512))
    label, given = torch.tensor([9, 2, 9, 0]), []
    module.teacher.weight_net.register_forward_pre_hook(lambda _, args: given.append(len(args[0])))
    weights = module.teacher.view_weights(label)
    (weights * torch.arange(12.0).view(4, 3)).sum().backward()
    ours = [parameter.grad.clone() for parameter in module.teacher.weight_net.parameters()]
    module.teacher.weight_net.zero_grad()
    every = module.teacher.weight_net(module.prompt_bank.embeddings.permute(1, 0, 2).reshape(11, -1))[label]
    (every * torch.arange(12.0).view(4, 3)).sum().backward()
    assert weights.allclose(every, atol=1e-6)
    for mine, parameter in zip(ours, module.teacher.weight_net.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-4, atol=1e-5)
    module.teacher.view_weights(torch.arange(11))  # as many images as classes: all at once, each once
    assert given == [4, 11, 11]


def test_sampled_negatives_are_those_of_the_step(net, prompts, fit) -> None:
    """A step draws by its place in the run: what was drawn before, here one more number, changes nothing."""

    class Draws(Callback):
        def on_train_epoch_start(self, *_) -> None:
            torch.rand(1)

    networks = net(16), net()
    states = []
    for callbacks in ([], [Draws()]):
        torch.manual_seed(0)
        module = tmkd_module(*copy.deepcopy(networks), text_negatives=1, optimizer=FAST["optimizer"])
        fit(module, callbacks=[prompts(), StepSeeds(5), *callbacks], max_epochs=1)
        states.append(module.state_dict())
    assert all(value.equal(states[1][key]) for key, value in states[0].items())
