"""What networks answer to the same images, in one pass: metrics, confusions and the most confident mistakes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.functional.classification import multiclass_confusion_matrix

from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.modules.metrics import classification_metrics
from tmkd_lightning.utils.labels import main_class
from tmkd_lightning.utils.precision import at_least_float32
from tmkd_lightning.utils.validation import check_count


class Opinion(NamedTuple):
    """A network's answer to an image, its probability, and the probability that the network gives the true class."""

    answer: int
    probability: float
    of_truth: float


@dataclass(frozen=True)
class Mistake:
    """An image that the first network has wrong.

    Args:
        index: place of the image in the split, from 0.
        image: ``(3, H, W)``, uint8, on the CPU.
        truth: its class.
        opinions: of all networks, by role.
    """

    index: int
    image: Tensor
    truth: int
    opinions: dict[str, Opinion]


class Confusion(NamedTuple):
    """Images of the class `truth` that a network takes for `answer`: their number, and their share of that class."""

    truth: int
    answer: int
    images: int
    share: float


@dataclass(frozen=True)
class Predictions:
    """Answers of networks to all images of a split, on the CPU.

    Args:
        truths: class of each image, ``(N,)``; of a label that is a distribution, the likeliest.
        answers: by role, the class with the highest logit, ``(N,)``.
        mistakes: of the first network, the most confident first.
        example_images: the first image of some classes, ``(R, 3, H, W)``, as the networks got them.
        example_labels: their classes, ``(R,)``.
    """

    truths: Tensor
    answers: dict[str, Tensor]
    mistakes: list[Mistake]
    example_images: Tensor
    example_labels: Tensor

    def wrong(self, role: str) -> Tensor:
        """Which images a network has wrong, ``(N,)``."""
        return self.answers[role] != self.truths

    def confusion_matrix(self, role: str, num_classes: int) -> Tensor:
        """Number of images ``(K, K)`` by true class (row) and answer (column)."""
        return multiclass_confusion_matrix(self.answers[role], self.truths, num_classes)

    def confusions(self, role: str, most: int) -> list[Confusion]:
        """The pairs of classes that a network confuses most often, without the square of the number of classes.

        Example:
            >>> truths, answers = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([0, 2, 2, 0, 2])
            >>> predictions = Predictions(truths, {"student": answers}, [], torch.empty(0), torch.empty(0))
            >>> first, second = predictions.confusions("student", most=5)
            >>> first.truth, first.answer, first.images
            (0, 2, 2)
        """
        wrong = self.wrong(role)
        if not wrong.any():
            return []
        pairs = torch.stack([self.truths[wrong], self.answers[role][wrong]], dim=1)
        pairs, counts = pairs.unique(dim=0, return_counts=True)  # in the order of the classes
        order = counts.argsort(descending=True, stable=True)[:most]
        of_class = self.truths.bincount()
        return [
            Confusion(truth, answer, count, count / int(of_class[truth]))
            for (truth, answer), count in zip(pairs[order].tolist(), counts[order].tolist(), strict=True)
        ]


class PredictionCollector:
    """Runs networks on batches, each image once through each, and collects `Predictions` and metrics.

    Of the images themselves only the mistakes and the examples are held, whatever the size of the split.

    Args:
        mistakes: number of mistakes to keep, those with the highest probability of the wrong answer.
        examples: number of example images to keep, the first of each class that comes.

    Example:
        >>> collector = PredictionCollector(mistakes=1)
        >>> collector.start({"student": lambda images, checked: Output(images.mean((2, 3)))}, num_classes=3)
        >>> images = torch.eye(3)[:, :, None, None].expand(-1, -1, 8, 8)  # red, green and blue
        >>> collector.update(images, torch.tensor([0, 1, 0]))
        >>> student, mistake = collector.metrics()["student"], collector.compute().mistakes[0]
        >>> student["top1"], mistake.index
        (0.666..., 2)
    """

    count: int | None = None  # of the images so far; None before the first loader is opened

    def __init__(self, mistakes: int = 0, examples: int = 0) -> None:
        self.mistakes = check_count("mistakes", mistakes, minimum=0)
        self.examples = check_count("examples", examples, minimum=0)
        self._networks: dict[str, Callable[..., Output]] = {}
        self._metrics: dict[str, MetricCollection] = {}

    def start(self, networks: Mapping[str, Callable[..., Output]], num_classes: int) -> None:
        """Begins anew, with networks by role; the mistakes are those of the first."""
        self.count = None
        self._networks = dict(networks)
        self._metrics = {role: classification_metrics(num_classes) for role in networks}
        self._truths: list[Tensor] = []
        self._answers: dict[str, list[Tensor]] = {role: [] for role in networks}
        self._mistakes: list[Mistake] = []
        self._examples: dict[int, Tensor] = {}

    @torch.no_grad()
    def update(self, images: Tensor, labels: Tensor) -> None:
        """Adds images ``(B, 3, H, W)`` in [0, 1], on the device to compute on, and labels ``(B,)`` or ``(B, K)``."""
        truths = main_class(labels)
        probabilities, answers = {}, {}
        for role, network in self._networks.items():
            logits = at_least_float32(network(images, checked=True).logits)
            self._metrics[role].to(logits.device).update(logits, labels)
            probabilities[role], answers[role] = logits.softmax(dim=1), logits.argmax(dim=1)
            self._answers[role].append(answers[role].cpu())
        self._truths.append(truths.cpu())
        if self.mistakes:
            self._keep_mistakes(images, truths, probabilities, answers)
        if len(self._examples) < self.examples:
            for image, label in zip(images, truths.tolist(), strict=True):
                if len(self._examples) < self.examples:
                    self._examples.setdefault(label, image.clone().cpu())
        self.count = (self.count or 0) + len(images)

    def metrics(self) -> dict[str, dict[str, float]]:
        """``loss``, ``top1``, ``top5`` and ``recall`` of each network, as validation and test log them."""
        return {
            role: {name: value.item() for name, value in metrics.compute().items()}
            for role, metrics in self._metrics.items()
        }

    def compute(self) -> Predictions | None:
        """Joins the batches; None where there were none."""
        if not self.count:
            return None
        examples = list(self._examples.values())
        return Predictions(
            truths=torch.cat(self._truths),
            answers={role: torch.cat(parts) for role, parts in self._answers.items()},
            mistakes=list(self._mistakes),
            example_images=torch.stack(examples) if examples else torch.empty(0),
            example_labels=torch.tensor(list(self._examples), dtype=torch.long),
        )

    def _keep_mistakes(
        self, images: Tensor, truths: Tensor, probabilities: Mapping[str, Tensor], answers: Mapping[str, Tensor]
    ) -> None:
        first = next(iter(self._networks))
        confidence = probabilities[first].gather(1, answers[first].unsqueeze(1)).squeeze(1)
        full = len(self._mistakes) == self.mistakes
        floor = self._mistakes[-1].opinions[first].probability if full else -1.0  # of equal ones the first stay
        rows = ((answers[first] != truths) & (confidence > floor)).nonzero().flatten()
        rows = rows[confidence[rows].argsort(descending=True, stable=True)][: self.mistakes]
        for row in rows.tolist():
            truth = int(truths[row])
            opinions = {}
            for role, of_class in probabilities.items():
                answer = int(answers[role][row])
                opinions[role] = Opinion(answer, of_class[row, answer].item(), of_class[row, truth].item())
            image = (images[row].float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
            self._mistakes.append(Mistake((self.count or 0) + row, image, truth, opinions))
        self._mistakes.sort(key=lambda one: -one.opinions[first].probability)  # stable
        del self._mistakes[self.mistakes :]
