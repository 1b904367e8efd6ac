"""Stops a run whose losses or weights are not finite."""

from typing import Any

import torch
import torch.distributed
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerStatus
from torch import Tensor, nn

_REMEDY = (
    "lower the learning rate, clip gradients (gradient_clip_val), or train in bf16-mixed or 32-true instead of "
    "16-mixed. The last checkpoint is from before it"
)


class NonFiniteLossCheck(Callback):
    """Stops training when a loss term is not finite, and names the term, the step and the batch.

    Modules of this library bring it along. The first bad batch is noted on the device; the host reads the note every
    ``log_every_n_steps`` batches, at the end of an epoch and before a checkpoint is written, so no step waits for it.
    """

    def __init__(self) -> None:
        self._first: Tensor | None = None  # step, epoch, batch and term of the first bad loss; -1 for none
        self._names: list[str] = []
        self._place = (0, 0, 0)

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Forgets an earlier run, or a search for a learning rate."""
        self._first, pl_module.logged_losses = None, {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Notes where training is: the step's number counts on before the batch ends."""
        self._place = (trainer.global_step, trainer.current_epoch, batch_idx)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Notes on the device whether this is the first batch with a bad term."""
        losses, pl_module.logged_losses = pl_module.logged_losses, {}
        if losses:
            self._names = list(losses)
            bad = ~torch.stack(list(losses.values())).isfinite()
            first = self._note(pl_module)
            now = torch.stack([*(torch.full_like(first[0], number) for number in self._place), bad.int().argmax()])
            self._first = torch.where(bad.any() & (first[0] < 0), now, first)
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (batch_idx + 1) % every == 0:
            self.check(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks the rest of the epoch."""
        self.check(trainer, pl_module)

    def check(self, trainer: Trainer, module: LightningModule) -> None:
        """Reads the notes of all processes: bad gradients of one are in the weights of all."""
        own = self._note(module)
        gathered = [own]
        if trainer.state.status == TrainerStatus.RUNNING and trainer.world_size > 1:  # where all processes come
            gathered = [torch.empty_like(own) for _ in range(trainer.world_size)]
            torch.distributed.all_gather(gathered, own)
        notes = torch.stack(gathered).tolist()
        if bad := [(*note, process) for process, note in enumerate(notes) if note[0] >= 0]:
            step, epoch, batch, term, process = min(bad)
            where = f"batch {batch} of epoch {epoch}" + (f" in process {process}" if len(notes) > 1 else "")
            term_name = self._names[term]
            raise FloatingPointError(f"loss term {term_name!r} was not finite at step {step} ({where}); {_REMEDY}")

    def _note(self, module: LightningModule) -> Tensor:
        if self._first is None:
            self._first = torch.full((4,), -1, device=module.device)
        return self._first


def check_finite_weights(module: nn.Module) -> None:
    """Refuses trained parameters and norms' statistics that are not finite, and other buffers that hold NaN.

    Masks and observers of quantization hold infinities on purpose. Waits for the device once.
    """
    good: dict[str, Tensor] = {}
    saved = module.state_dict(keep_vars=True)
    for name, value in saved.items():
        if isinstance(value, nn.Parameter):
            if value.requires_grad:
                good[name] = value.detach().isfinite().all()
        elif isinstance(value, Tensor) and value.is_floating_point():
            statistics = name.rpartition(".")[2].startswith("running_")
            good[name] = value.isfinite().all() if statistics else ~value.isnan().any()
    if good and not torch.stack(list(good.values())).all():
        name = next(name for name, fine in good.items() if not fine)
        trained = isinstance(saved[name], nn.Parameter)
        what, cause = ("parameter", "its gradients") if trained else ("buffer", "what its layer was given")
        raise FloatingPointError(
            f"{what} {name!r} is not finite, although all losses were: {cause} overflowed; {_REMEDY}"
        )
