"""Networks without a head: how wide their embeddings are, and a head that knows nothing yet."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from helpers.tiny import Net
from tmkd_lightning import Extractor
from tmkd_lightning.models import Probe, load_weights


class Headless(Net):
    """Gives embeddings, of one size of images alone."""

    def __init__(self, width: int = 8, size: int = 8) -> None:
        super().__init__(width)
        self.fc, self.size = nn.Identity(), size

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[-1] != self.size:
            raise ValueError("another size")
        return super().forward(image)


@pytest.mark.parametrize(("name", "width"), [("vit_tiny_patch16_224", 192), ("mobilenetv3_small_050", 1024)])
def test_networks_of_timm(name: str, width: int) -> None:
    """The width is that of the output, which need not be that of the features."""
    probe = Probe(timm.create_model(name, num_classes=0), num_classes=3)
    extractor, image = Extractor(probe), torch.rand(2, 3, 224, 224)
    output = extractor.eval()(image)
    assert output.embedding.shape == (2, width)
    torch.testing.assert_close(output.embedding, probe.network(extractor.normalize(image)))
    assert extractor.mean.flatten().tolist() == pytest.approx(list(probe.network.pretrained_cfg["mean"]))
    assert not output.logits.any()
    assert not extractor.knows_classes


def test_the_map_behind_an_embedding_is_found() -> None:
    probe = Probe(Headless(), num_classes=3, embedding_dim=8)
    output = Extractor(probe)(torch.rand(4, 3, 8, 8))
    torch.testing.assert_close(output.feature_map.mean((2, 3)), output.embedding)


def test_a_head_knows_nothing_until_it_is_fitted(tmp_path) -> None:
    probe = Probe(Headless(size=224))
    extractor = Extractor(probe)
    extractor.resize_head(3)
    assert (probe.head.out_features, extractor.num_classes, extractor.knows_classes) == (3, 3, False)
    fitted = Probe(Headless(size=224), num_classes=3)
    nn.init.normal_(fitted.head.weight)
    torch.save(fitted.state_dict(), tmp_path / "fitted.pt")
    load_weights(extractor, tmp_path / "fitted.pt", replace_head=False)
    assert extractor.knows_classes
    assert Extractor(Net()).knows_classes


def test_a_network_in_half_precision_has_such_a_head() -> None:
    probe = Probe(Headless(size=32).bfloat16())
    assert probe.head.weight.dtype == torch.bfloat16
    assert Extractor(probe).eval()(torch.rand(2, 3, 32, 32)).embedding.dtype == torch.bfloat16


class Tokens(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image.flatten(2)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Headless(size=17), r"Headless takes no image of a customary size: say .* embedding_dim="),
        (Tokens(), r"Tokens returned shape \(1, 3, 1024\), expected embeddings \(batch, width\): wrap it"),
    ],
)
def test_networks_without_embeddings_are_refused(network: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Probe(network)
