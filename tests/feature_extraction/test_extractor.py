"""Any classifier as a source of outputs: the right head, the right map, and the network left as it was."""

import copy
import io
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import timm
import torch
import torchvision.models as tv
from torch import Tensor, nn

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.feature_extraction.output import MissingPartError, Output
from tmkd_lightning.modules import ClassifierModule
from tmkd_lightning.utils.images import IMAGENET_MEAN, IMAGENET_STD

CLASSES = 5


def timm_network(name: str) -> nn.Module:
    return timm.create_model(name, pretrained=False, num_classes=CLASSES)


# How to build it, the side of its images, the layer that gives the map or None, the width of the embedding.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, str | None, int]] = {
    "torchvision resnet18": (lambda: tv.resnet18(num_classes=CLASSES), 64, "layer4", 512),
    "torchvision shufflenet": (lambda: tv.shufflenet_v2_x1_0(num_classes=CLASSES), 64, "conv5", 1024),
    "timm resnet18": (lambda: timm_network("resnet18"), 64, "layer4", 512),
    "timm efficientnet": (lambda: timm_network("efficientnet_b0"), 64, "bn2", 1280),
    "torchvision mobilenet": (lambda: tv.mobilenet_v3_small(num_classes=CLASSES), 64, None, 1024),
    "timm vit": (lambda: timm_network("vit_tiny_patch16_224"), 224, None, 192),
    # A norm behind the pooling: its own output, one pixel, does average to the head's input, and yet is no map.
    "timm convnext": (lambda: timm_network("convnext_atto"), 64, None, 320),
    "torchvision convnext": (lambda: tv.convnext_tiny(num_classes=CLASSES), 64, None, 768),
}


class Small(nn.Module):
    """Ends as most CNNs do; every layer that can be in the way is."""

    def __init__(self, inplace: bool = True, dropout: float = 0.5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=inplace)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.last = nn.ReLU(inplace=inplace)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(8, CLASSES)

    def features(self, image: Tensor) -> Tensor:
        return self.last(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(image))))))

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(self.dropout(self.pool(self.features(image)).flatten(1)))


class Ending(nn.Module):
    """A small network, with something done to its logits."""

    def __init__(self, ending: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.body = Small()
        self.ending = ending

    def forward(self, image: Tensor) -> object:
        return self.ending(self.body(image))


class TwoHeads(nn.Module):
    """Made in the order (main, auxiliary); the main one is the output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.main = nn.Linear(8, CLASSES)
        self.auxiliary = nn.Linear(8, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        embedding = self.conv(image).mean((2, 3))
        self.auxiliary(embedding)
        return self.main(embedding)


def images(batch: int = 2, side: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))


def assert_same_logits(value: Tensor, logits: Tensor) -> None:
    """Equal up to rounding; randomly initialised networks have logits of any size."""
    torch.testing.assert_close(value, logits, rtol=0, atol=1e-4 * float(logits.detach().abs().max()))


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())


# Networks of others


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_embedding_and_map_explain_the_logits(name: str) -> None:
    build, side, map_name, width = NETWORKS[name]
    extractor = Extractor(build()).eval()
    output = extractor(images(3, side))
    assert output.logits.shape == (3, CLASSES)
    assert output.embedding.shape == (3, width) == (3, extractor.embedding_dim)
    assert_same_logits(extractor.head(output.embedding), output.logits)
    assert extractor.map_name == map_name
    if map_name is None:
        assert output.feature_map is None
        with pytest.raises(MissingPartError, match=f"SP reads feature_map, but {extractor.name} has no"):
            extractor.require("feature_map", reader="SP")
    else:
        assert_same_logits(output.cam.mean((2, 3)) + extractor.head.bias, output.logits)
        extractor.require("feature_map", reader="SP")


def test_logits_are_those_of_the_network() -> None:
    network = Small().eval()
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.25, 2.0]).view(3, 1, 1)
    extractor = Extractor(network, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    torch.testing.assert_close(extractor(images()).logits, network((images() - mean) / std))
    assert (extractor.num_classes, extractor.embedding_dim, extractor.name) == (CLASSES, 8, "Small")


def test_integers_given_as_statistics_or_as_images() -> None:
    extractor = Extractor(Small().eval(), mean=(0, 0, 0), std=(1, 1, 1))
    torch.testing.assert_close(extractor.normalize(images()), images())  # not rounded to integers
    extractor, image = Extractor(Small().eval()), torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    assert extractor(image).logits.equal(extractor(image.float() / 255).logits)


# The network is left as it was


def test_confirm_touches_nothing() -> None:
    class Noisy(Small):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image + torch.randn_like(image))

    network = Noisy().train()
    network.bn1.eval()  # frozen by its owner, and to stay so
    extractor = Extractor(network)
    modes = {name: module.training for name, module in extractor.named_modules()}
    state = {key: value.clone() for key, value in network.state_dict().items()}
    generators = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    extractor.confirm(images())
    assert {name: module.training for name, module in extractor.named_modules()} == modes
    assert all(value.equal(state[key]) for key, value in network.state_dict().items())
    assert torch.get_rng_state().equal(generators[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == generators[1:]
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


def test_confirm_runs_once_on_few_images_and_in_full_precision() -> None:
    """Whatever the step itself is in."""
    seen = []

    class Recording(Small):
        def forward(self, image: Tensor) -> Tensor:
            seen.append((len(image), torch.is_autocast_enabled("cpu")))
            return super().forward(image)

    extractor = Extractor(Recording().eval())
    with torch.autocast("cpu", torch.bfloat16):
        output = extractor(images(20))
    extractor(images(20))
    assert seen == [(8, False), (20, True), (20, False)]
    assert extractor.map_name == "last"
    assert output.logits.dtype == torch.bfloat16


def test_training_updates_statistics_once_a_batch() -> None:
    """Confirming on the first batch is not a training step of BatchNorm's."""
    network = Small().train()
    plain = copy.deepcopy(network)
    Extractor(network, mean=(0, 0, 0), std=(1, 1, 1))(images())
    plain(images())
    assert network.bn1.running_mean.equal(plain.bn1.running_mean)
    assert network.bn1.num_batches_tracked.item() == 1


# The captures hold the right tensors


@pytest.mark.parametrize("inplace", [True, False])
def test_map_behind_an_activation(inplace: bool) -> None:
    network = Small(inplace).eval()
    extractor = Extractor(network, mean=(0, 0, 0), std=(1, 1, 1))
    output = extractor(images())
    assert extractor.map_name == "last"
    torch.testing.assert_close(output.feature_map, network.features(images()))
    assert output.feature_map.min() == 0  # BatchNorm's own output is negative in places


def test_channels_last() -> None:
    network = Small().eval()
    expected = Extractor(copy.deepcopy(network))(images())
    extractor = Extractor(network.to(memory_format=torch.channels_last))
    output = extractor(images().to(memory_format=torch.channels_last))
    for part in ("logits", "embedding", "feature_map"):
        torch.testing.assert_close(output.require(part), expected.require(part))
    assert extractor.map_name == "last"


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_of_another_precision_than_its_statistics(kind: torch.dtype) -> None:
    """The image is normalised in float32 or better, and only then given the network's precision."""
    network = Small().eval().to(kind)
    extractor, image = Extractor(network), images()
    mean, std = (torch.tensor(part, dtype=torch.float64).view(3, 1, 1) for part in (IMAGENET_MEAN, IMAGENET_STD))
    right = ((image.double() - mean) / std).to(kind)
    seen = extractor.normalize(image)
    assert seen.dtype == kind
    if kind.itemsize < 4:
        assert (seen != right).float().mean() < 0.02  # a third, were the image rounded first
    torch.testing.assert_close(seen, right, rtol=torch.finfo(kind).eps if kind.itemsize < 4 else 1e-6, atol=1e-6)
    output = extractor(image)
    assert output.logits.dtype == output.embedding.dtype == output.feature_map.dtype == kind


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_nothing_stays_on_a_network_between_calls() -> None:
    """A tensor that stays behind would hold memory; a hook would be pickled along, and cannot be scripted."""
    network = Small()
    extractor = Extractor(network)
    output = extractor(images())
    assert hooks(network) == 0
    copy.deepcopy(extractor)  # a tensor with a history could not be copied
    file = io.BytesIO()
    torch.save(network, file)
    assert b"tmkd_lightning" not in file.getvalue()
    scripted = torch.jit.script(network.eval())
    torch.testing.assert_close(scripted(extractor.normalize(images())), network(extractor.normalize(images())))
    assert output.embedding.grad_fn is not None


def assert_own_parts(extractor: Extractor, own: list[Tensor], expected: list[Output], threads: int, times: int) -> None:
    """Threads get what their own images give."""
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(times):
            for seen, right in zip(pool.map(extractor, own), expected, strict=True):
                for part in ("logits", "embedding", "feature_map"):
                    assert seen.require(part).equal(right.require(part))
    assert hooks(extractor.network) == 0


def test_threads_that_meet_within_the_network_get_their_own_parts() -> None:
    meeting = Barrier(2)

    class Meeting(Small):
        def forward(self, image: Tensor) -> Tensor:
            maps = self.features(image)
            meeting.wait()
            logits = self.fc(self.pool(maps).flatten(1))
            meeting.wait()
            return logits

    extractor, own = Extractor(Meeting().eval()), [images(seed=seed) for seed in range(2)]
    wait, meeting.wait = meeting.wait, lambda: 0  # while one runs alone
    expected = [extractor(image) for image in own]
    meeting.wait = wait
    assert_own_parts(extractor, own, expected, threads=2, times=1)


def test_threads_get_what_their_own_images_give() -> None:
    """Also while another confirms the network, which puts it into evaluation mode."""
    extractor, own = Extractor(Small(dropout=0.0).eval()), [images(2, seed=seed) for seed in range(32)]
    assert_own_parts(extractor, own, [copy.deepcopy(extractor)(image) for image in own], threads=8, times=5)


@pytest.mark.parametrize("confirmed_before", [True, False])
def test_deep_copies_are_independent(confirmed_before: bool) -> None:
    original = Extractor(Small(dropout=0.0).eval())
    if confirmed_before:
        original(images())
    twin = copy.deepcopy(original)
    with torch.no_grad():
        twin.network.conv2.weight.mul_(-2)
    for extractor, other in ((original, twin), (twin, original)):
        output = extractor(images(seed=1))
        torch.testing.assert_close(output.cam.mean((2, 3)) + extractor.head.bias, output.logits)
        assert output.head_weight is extractor.network.fc.weight
        assert not output.logits.allclose(other(images(seed=1)).logits)
        (output.embedding.sum() + output.feature_map.sum()).backward()
        assert extractor.network.conv1.weight.grad.abs().sum() > 0
        assert other.network.conv1.weight.grad is None
        extractor.zero_grad()


@pytest.mark.parametrize("part", ["logits", "embedding", "feature_map"])
def test_gradients_flow_through_every_part(part: str) -> None:
    extractor = Extractor(Small())
    extractor(images()).require(part).square().sum().backward()
    assert extractor.network.conv1.weight.grad.abs().sum() > 0


# Named parts


@pytest.mark.parametrize("name", ["layer4", "layer4.1", "layer4.1.relu"])  # the last is called twice in a pass
def test_named_parts(name: str) -> None:
    network = tv.resnet18(num_classes=CLASSES).eval()
    named = Extractor(network, head="fc", feature_map=name)(images(side=64))
    found = Extractor(network)(images(side=64))
    assert named.feature_map.equal(found.feature_map)
    assert named.embedding.equal(found.embedding)


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ({"head": "classifier"}, ValueError, r"head='classifier': Small has no such layer; it has .*'fc'"),
        ({"feature_map": "layer4"}, ValueError, r"feature_map='layer4': Small has no such layer; it has .*'conv2'"),
        ({"head": "pool"}, TypeError, "head 'pool' of Small is a AdaptiveAvgPool2d, not a linear layer"),
    ],
)
def test_names_that_lead_nowhere(names: dict[str, str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Extractor(Small(), **names)


@pytest.mark.parametrize("name", ["bn2", "relu", "pool"])
def test_named_map_that_is_not_the_map(name: str) -> None:
    with pytest.raises(ValueError, match=rf"feature_map='{name}' of Small .* these are: \['last'\]"):
        Extractor(Small(), feature_map=name)(images())


def test_named_map_where_there_is_none() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 16), nn.BatchNorm2d(4), nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="this network has none, leave the argument out"):
        Extractor(network, feature_map="1")(images())


def test_the_right_head_is_named() -> None:
    unnamed = Extractor(TwoHeads())
    output = unnamed(images())
    assert output.embedding is output.feature_map is output.head_weight is None
    with pytest.raises(MissingPartError, match=r"'auxiliary' was taken for the head of TwoHeads.*'main'.*head=\.\.\."):
        unnamed.require("embedding", reader="L_feat")
    with pytest.raises(ValueError, match=r"'auxiliary' was taken for the head of TwoHeads.*'main'"):
        Extractor(TwoHeads(), head="auxiliary")(images())
    extractor = Extractor(TwoHeads(), head="main")
    output = extractor(images())
    torch.testing.assert_close(output.cam.mean((2, 3)) + extractor.network.main.bias, output.logits)


# Networks that cannot serve


@pytest.mark.parametrize(
    ("ending", "error", "message"),
    [
        (lambda logits: (logits, logits), TypeError, "Ending returned a tuple, expected one tensor of logits"),
        (lambda logits: {"logits": logits}, TypeError, "Ending returned a dict, expected one tensor of logits"),
        (lambda logits: logits[..., None], ValueError, r"Ending returned shape \(2, 5, 1\), expected logits"),
        (lambda logits: logits.softmax(1), ValueError, "looks like a softmax"),
        (lambda logits: logits * torch.nan, ValueError, "not finite"),
    ],
)
def test_endings_that_are_refused(ending: Callable[[Tensor], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Extractor(Ending(ending))(images())


def test_an_ending_that_changes_or_fails_later_leaves_nothing_behind() -> None:
    def fail(logits: Tensor) -> Tensor:
        raise RuntimeError("behind the head")

    extractor = Extractor(Ending(lambda logits: logits))
    extractor(images())
    endings = (lambda logits: (logits, logits), TypeError, "Ending returned a tuple"), (fail, RuntimeError, "behind")
    for ending, error, message in endings:
        extractor.network.ending = ending
        with pytest.raises(error, match=message):
            extractor(images())
        copy.deepcopy(extractor)  # a tensor with a history could not be copied
        assert hooks(extractor.network) == 0


@pytest.mark.parametrize("ending", [lambda logits: logits.log_softmax(1), lambda logits: logits * 2])
def test_logits_alone_where_no_linear_layer_gives_them(ending: Callable[[Tensor], Tensor]) -> None:
    extractor = Extractor(Ending(ending).eval())
    output = extractor(images())
    assert output.logits.equal(extractor.network(extractor.normalize(images())))
    assert output.embedding is output.feature_map is output.head_weight is None
    for part in ("embedding", "head_weight"):
        with pytest.raises(MissingPartError, match=f"SP reads {part}, which Ending .* no linear layer gives the"):
            extractor.require(part, reader="SP")


class Gated(nn.Module):
    """Squeeze-and-excitation blocks hold linear layers, too."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(3, 3)
        self.last = nn.Conv2d(3, CLASSES, 1)

    def forward(self, image: Tensor) -> Tensor:
        gate = self.gate(image.mean((2, 3))).sigmoid()
        return self.last(image * gate[..., None, None]).mean((2, 3))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Conv2d(3, CLASSES, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "Sequential has no linear la"),
        (Gated(), "'gate' was taken for the head of Gated, but no linear layer gives"),
    ],
)
def test_network_that_ends_in_a_convolution(network: nn.Module, message: str) -> None:
    extractor = Extractor(network)
    assert extractor.num_classes == CLASSES  # not the gate's three
    assert extractor(images()).embedding is None
    with pytest.raises(MissingPartError, match=message):
        extractor.require("embedding", reader="L_text")


def test_a_number_of_classes_that_nothing_shows_must_be_given() -> None:
    with pytest.raises(ValueError, match=r"how many classes Identity has cannot be read off it.*num_classes=\.\.\."):
        _ = Extractor(nn.Identity()).num_classes
    assert Extractor(nn.Identity(), num_classes=3).num_classes == 3
    with pytest.raises(MissingPartError, match="Identity has no head: Identity has no linear layer"):
        _ = Extractor(nn.Identity(), num_classes=3).embedding_dim


@pytest.mark.parametrize("network", ["resnet18", Small], ids=["name", "class"])
def test_not_a_classifier(network: object) -> None:
    with pytest.raises(TypeError, match=r"network must be a classifier, .*, got a (str|type)$"):
        Extractor(network)


@pytest.mark.parametrize("wrap", [Extractor, ClassifierModule, lambda net: nn.Sequential(Extractor(net))])
def test_an_extractor_inside_would_normalise_twice(wrap: Callable[[nn.Module], nn.Module]) -> None:
    inner = wrap(Small())
    with pytest.raises(TypeError, match=rf"network is a {type(inner).__name__}, which normalises .* module\.extractor"):
        Extractor(inner)


def test_keep_map_can_be_turned_on_later() -> None:
    extractor = Extractor(Small().eval(), keep_map=False)
    output = extractor(images())
    assert output.feature_map is None
    assert output.embedding.shape == (2, 8)
    with pytest.raises(MissingPartError, match="SP reads feature_map, but the Extractor of Small has keep_map=False"):
        extractor.require("feature_map", reader="SP")
    extractor.keep_map = True
    assert extractor(images()).feature_map.shape == (2, 8, 16, 16)


@pytest.mark.parametrize("named", ["bn", None])
@pytest.mark.parametrize("confirmed", [False, True])
def test_a_norm_that_was_replaced_still_gives_the_map(named, confirmed) -> None:
    """As ``sync_batchnorm`` does."""

    class EndsInNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 3)
            self.bn.running_mean.fill_(0.3)  # of a trained one

        def forward(self, image):
            return self.fc(self.bn(self.conv(image)).mean((2, 3)))

    extractor, image = Extractor(EndsInNorm(), feature_map=named).eval(), torch.rand(4, 3, 8, 8)
    expected = Extractor(copy.deepcopy(extractor.network)).eval()(image).feature_map
    if confirmed:
        extractor.confirm(image)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(extractor)
    assert type(converted.network.bn) is nn.SyncBatchNorm
    for _ in range(2):
        assert converted(image).feature_map.equal(expected)
