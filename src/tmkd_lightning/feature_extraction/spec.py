"""What a network gives, known before it runs: from it methods make layers of the right width."""

from dataclasses import dataclass

MapShape = tuple[int, int, int]  # channels, height and width


@dataclass(frozen=True)
class Spec:
    """What is known of a network, and of the data that it is trained on, when methods make their layers.

    Args:
        num_classes: K.
        embedding_dim: width D of the embedding; None where the network has none.
        maps: channels, height and width of each of `Output.maps`, the largest first; empty where no method reads them.
            The sizes are those of a small image.
        training_images: number of training images; None before the data are known.

    Example:
        >>> from tmkd_lightning.distillers import VkD
        >>> method = VkD()
        >>> method.build(student=Spec(num_classes=3, embedding_dim=2), teacher=Spec(num_classes=3, embedding_dim=4))
        >>> method.projection.shape
        torch.Size([4, 2])
    """

    num_classes: int
    embedding_dim: int | None = None
    maps: tuple[MapShape, ...] = ()
    training_images: int | None = None
