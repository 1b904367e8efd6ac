"""The queue: what it holds, in which order, when a batch enters it, and that a checkpoint has it."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.methods import built
from helpers.tiny import sgd, tmkd_module
from tmkd_lightning import TMKDModule
from tmkd_lightning.distillers import QueueKL
from tmkd_lightning.distillers import queue_kl as file
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.losses import queue_kl

LABEL = torch.tensor([0, 1])
PLAIN = {"views": ["rgb"], "ce_weight": 0, "feature_weight": 0, "logit_weight": 0, "text_weight": 0}


def output(embedding: Tensor) -> Output:
    return Output(torch.zeros(len(embedding), 3), embedding)


def step(method: QueueKL, teacher: Tensor) -> Tensor:
    return method(output(torch.ones(len(teacher), 4)), output(teacher), LABEL)["queue_kl"]


def test_first_in_first_out() -> None:
    method = built(QueueKL(queue_size=5), 4, 6)
    begin = method.queue.clone()
    torch.testing.assert_close(begin.norm(dim=1), torch.ones(5))
    batches = [torch.randn(2, 6) for _ in range(3)]
    rows = [F.normalize(batch) for batch in batches]
    step(method, batches[0])
    torch.testing.assert_close(method.queue, torch.cat([rows[0], begin[2:]]))
    step(method, batches[1])
    step(method, batches[2])  # the sixth row overwrites the first
    torch.testing.assert_close(method.queue, torch.cat([rows[2][1:], rows[0][1:], rows[1], rows[2][:1]]))
    assert method.position.item() == 1


def test_of_a_batch_larger_than_the_queue_the_last_images_stay() -> None:
    """As if they had entered one by one."""
    whole, single, batch = built(QueueKL(queue_size=3), 4, 6), built(QueueKL(queue_size=3), 4, 6), torch.randn(7, 6)
    for method in (whole, single):
        step(method, torch.randn(2, 6))
    step(whole, batch)
    for row in batch:
        step(single, row[None])
    torch.testing.assert_close(whole.queue, single.queue)
    assert whole.position.equal(single.position)


def test_a_batch_enters_after_its_loss() -> None:
    method, teacher, student = built(QueueKL(queue_size=8, weight=2.0), 4, 6), torch.randn(2, 6), torch.randn(2, 4)
    before = method.queue.clone()
    term = method(output(student), output(teacher), LABEL)["queue_kl"]
    torch.testing.assert_close(term, 2 * queue_kl(method.projector(student), teacher, before, 0.07))
    term.backward()  # on the queue as it was
    assert method.projector.weight.grad.abs().sum() > 0
    assert not method.queue.equal(before)


def test_two_processes_share_one_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has what one process with the whole batch would have."""
    whole = built(QueueKL(queue_size=8), 4, 6)
    method, batch = copy.deepcopy(whole), torch.randn(4, 6)
    step(whole, batch)
    others = F.normalize(batch[2:])
    monkeypatch.setattr(file, "gather_batches", lambda own: (torch.cat([own, others]),))
    step(method, batch[:2])
    torch.testing.assert_close(method.queue, whole.queue)
    assert method.position.equal(whole.position)


def test_a_checkpoint_has_the_queue(net, fit, tmp_path) -> None:
    """A run that is resumed ends as an undisturbed one, though its queue began with other directions."""

    def make(seed: int) -> TMKDModule:
        torch.manual_seed(1)
        teacher, student = net(16), net()
        torch.manual_seed(seed)
        constant = partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 1.0)  # whatever a run's length
        method = QueueKL(queue_size=20)
        return tmkd_module(teacher, student, distiller=method, optimizer=sgd, lr_scheduler=constant, **PLAIN)

    whole, first, second = make(2), make(2), make(3)
    fit(whole, max_epochs=2)
    trainer = fit(first, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    fit(second, max_epochs=2, ckpt_path=tmp_path / "one.ckpt")
    states = whole.state_dict(), second.state_dict()
    assert "distiller.distillers.0.queue" in states[0]
    assert all(value.equal(states[1][key]) for key, value in states[0].items())


def test_the_module_tells_the_widths(net) -> None:
    method = tmkd_module(net(16), net(), distiller=QueueKL(), **PLAIN).distiller.parts[0]
    assert (method.projector.in_features, method.projector.out_features) == (8, 16)
    assert method.queue.shape == (8192, 16)
