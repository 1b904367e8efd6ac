"""WarmUp: a method's weight rises over the first epochs, and goes on where a run is resumed."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from helpers.tiny import sgd, tmkd_module
from tmkd_lightning import TMKDModule
from tmkd_lightning.distillers import CATKD, DKD, KD, RKD, SP, QueueKL, Sum, WarmUp
from tmkd_lightning.feature_extraction.output import MissingPartError, Output

PLAIN = {"views": ["rgb"], "feature_weight": 0, "logit_weight": 0, "text_weight": 0}
LABEL = torch.tensor([0, 2])


def terms(method, epoch: int) -> dict[str, float]:
    method.set_epoch(epoch)
    output = Output(torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 1.0]]), torch.eye(2))
    other = Output(torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), torch.eye(2))
    return {name: term.item() for name, term in method(output, other, LABEL).items()}


@pytest.mark.parametrize("epochs", [1, 4])
def test_ramp_of_the_official_code(epochs: int) -> None:
    """There epochs count from 1: the first one is at 1 / epochs, not at 0."""
    (full,) = terms(DKD(), 0).values()
    for epoch in range(6):
        assert terms(WarmUp(DKD(), epochs), epoch)["dkd"] == pytest.approx(full * min((epoch + 1) / epochs, 1))


def test_within_sums_and_around_them() -> None:
    plain = terms(KD(), 0)["kd"]
    nested = Sum(KD(name="plain"), Sum(WarmUp(Sum(KD(), WarmUp(KD(name="slow"), 4)), 2)))
    assert terms(nested, 0) == pytest.approx({"plain": plain, "kd": plain / 2, "slow": plain / 8})
    assert terms(nested, 1) == pytest.approx({"plain": plain, "kd": plain, "slow": plain / 2})


def test_is_for_the_module_what_the_method_is() -> None:
    for method in (KD(), DKD(), RKD(), CATKD(resolution=3)):
        warm = WarmUp(method)
        for part in ("reads", "reads_logits", "is_logit_term", "map_size", "min_batch", "needs_class", "method_name"):
            assert getattr(warm, part) == getattr(method, part), part
    with pytest.raises(TypeError, match="WarmUp takes Distillers, got str"):
        WarmUp("kd")


def test_a_method_that_is_built_later_is_built_within(net, fit) -> None:
    """By the widths that the module reads off the networks; its loss is the method's, times the ramp."""
    losses: dict[str, float] = {}
    for name, method in {"full": QueueKL(queue_size=16), "rising": WarmUp(Sum(QueueKL(queue_size=16), RKD()))}.items():
        torch.manual_seed(0)
        built = tmkd_module(net(16), net(), distiller=method, optimizer=sgd, **PLAIN)
        (queue,) = (part for part in built.modules() if isinstance(part, QueueKL))
        assert queue.projector.weight.shape == (16, built.extractor.embedding_dim)
        losses[name] = fit(built, max_epochs=1, limit_train_batches=1).logged_metrics["train/queue_kl"].item()
    assert losses["rising"] == pytest.approx(losses["full"] / 20, rel=1e-5)


class Ratios(Callback):
    """Keeps, for each step, the term with a warm-up over the one without."""

    def __init__(self) -> None:
        self.steps: list[float] = []

    def on_train_batch_end(self, trainer, *_) -> None:
        logged = trainer.logged_metrics
        self.steps.append((logged["train/warm"] / logged["train/kd"]).item())


def module(net) -> TMKDModule:
    torch.manual_seed(0)
    methods = [KD(), WarmUp(KD(name="warm"), epochs=3)]
    return tmkd_module(net(16), net(), distiller=methods, optimizer=sgd, **PLAIN)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_follows_the_epochs_of_a_run_that_is_resumed_within_one(net, fit, tmp_path) -> None:
    """Lightning does not call on_train_epoch_start then."""
    whole, before, after = Ratios(), Ratios(), Ratios()
    fit(module(net), callbacks=[whole], max_epochs=4)
    expected = [each / 3 for each in (1, 2, 3, 3) for _ in range(4)]
    assert whole.steps == pytest.approx(expected, rel=1e-5)
    save = ModelCheckpoint(tmp_path, "stopped", every_n_train_steps=6, save_top_k=-1)
    fit(module(net), callbacks=[before, save], max_epochs=2, enable_checkpointing=True, limit_train_batches=4)
    path = str(tmp_path / "stopped.ckpt")
    assert "epochs" not in str(torch.load(path, weights_only=True)["state_dict"].keys())
    fit(module(net), callbacks=[after], max_epochs=4, ckpt_path=path)
    assert after.steps == pytest.approx(expected[6:], rel=1e-5)


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        (SP(), MissingPartError, "^SP reads feature_map"),
        (RKD(), ValueError, "RKD compares the images .* batch_size of at least 3"),
    ],
)
def test_messages_name_the_method(fit, loader, method, error, message) -> None:
    def network() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))

    pair = network(), network()
    with pytest.raises(error, match=message):
        fit(tmkd_module(*pair, distiller=WarmUp(method), **PLAIN), train=loader(batch_size=2))
