"""torchvision's networks with ImageNet weights: read late, once, safely, or not at all. Stand-ins play the files."""

import copy
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import timm
import torch
import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from helpers.fake_datasets import Trap
from helpers.tiny import tmkd_module
from tmkd_lightning import ClassifierModule, Extractor
from tmkd_lightning.models import Pretrained, PretrainedWeightsError, load_pretrained, load_weights
from tmkd_lightning.models.pretrained import without_weights

PRETRAINED = "tmkd_lightning.models.Pretrained"
SMALL = "shufflenet_v2_x0_5"  # the quickest to build
PLAIN = {"googlenet": {"init_weights": False}, "inception_v3": {"init_weights": False}}  # or they say it takes long
Put = Callable[..., dict[str, Tensor]]


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for weights on a machine without internet."""

    def unplugged(url: str, *args: object, **options: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", unplugged)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def put(hub: Path) -> Put:
    """Puts a stand-in where fetched weights would be, and gives its tensors."""

    def write(name: str = SMALL, rename: Callable[[str], str] = str) -> dict[str, Tensor]:
        state = get_model(name, **PLAIN.get(name, {})).state_dict()
        for key, value in state.items():
            value += 1 if key.endswith("num_batches_tracked") else 0.01
        path = hub / Path(get_model_weights(name).DEFAULT.url).name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({rename(key): value for key, value in state.items()}, path)
        return state

    return write


def assert_read(network: nn.Module, stand_in: dict[str, Tensor], head: str) -> None:
    """All is the file's but the head."""
    state = network.state_dict()
    differing = [key for key, value in state.items() if not value.equal(stand_in[key])]
    assert differing == [f"{head}.weight", f"{head}.bias"]
    assert state[f"{head}.weight"].isfinite().all()


def legacy(key: str) -> str:
    """Names from before modules could not have dots in theirs."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))([12]\.(?:weight|bias|running))", r"\1.\2", key)


@pytest.mark.parametrize(
    ("name", "head"),
    [("mobilenet_v3_small", "classifier.3"), ("densenet121", "classifier"), ("inception_v3", "fc")],
)
def test_all_is_read_but_the_head(name: str, head: str, put: Put) -> None:
    stand_in = put(name, rename=legacy)
    network = Pretrained(name, num_classes=7)
    parameters, head_before = list(network.parameters()), network.get_submodule(f"network.{head}").weight.clone()
    generator = torch.get_rng_state()
    network.load_pretrained()
    assert_read(network, stand_in, head)
    assert not network.pending
    assert network.get_submodule(f"network.{head}").weight.equal(head_before)
    assert head_before.shape[0] == 7
    assert all(one is other for one, other in zip(parameters, network.parameters(), strict=True))  # of an optimizer
    assert torch.get_rng_state().equal(generator)  # or a run would depend on when they are read


@pytest.mark.parametrize("name", [SMALL, "googlenet"])
def test_as_many_classes_as_the_weights_give_torchvisions_own_network(name: str, put: Put) -> None:
    """GoogLeNet's weights want another normalisation, which torchvision switches on along with them."""
    stand_in = put(name)
    image = torch.randn(2, 3, 64, 64)
    network = Pretrained(name, num_classes=1000).eval()
    own = get_model(name, init_weights=False, aux_logits=False) if name == "googlenet" else get_model(name)
    assert list(network.state_dict()) == list(own.state_dict())
    assert list(nn.Sequential(nn.ReLU(), network).state_dict()) == [f"1.{key}" for key in own.state_dict()]
    torch.testing.assert_close(network(image), get_model(name, weights="DEFAULT").eval()(image))
    assert network.state_dict()["fc.weight"].equal(stand_in["fc.weight"])


def test_the_first_forward_reads_and_no_other(put: Put, hub: Path) -> None:
    """Of all networks inside a module, and that of an extractor, which looks for the map once they are read."""
    stand_in = put()
    both = nn.ModuleList([Pretrained(SMALL, 2), nn.Sequential(Pretrained(SMALL, 3)), Pretrained(SMALL, 4, None)])
    load_pretrained(both)
    extractor = Extractor(Pretrained(SMALL, num_classes=4)).eval()
    output = extractor(torch.rand(2, 3, 64, 64))
    assert output.feature_map.shape == (2, 1024, 2, 2)
    torch.testing.assert_close(output.cam.mean((2, 3)) + extractor.head.bias, output.logits, rtol=1e-4, atol=1e-4)
    network = Pretrained(SMALL, num_classes=3).eval()
    with torch.inference_mode():
        first = network(torch.ones(1, 3, 32, 32))
    for read in (network, both[0], both[1][0], extractor.network):
        assert_read(read, stand_in, "fc")
    assert not both[2].state_dict()["conv5.0.weight"].equal(stand_in["conv5.0.weight"])
    next(hub.iterdir()).unlink()
    with torch.no_grad():
        network.network.fc.bias += 1
    network.load_pretrained()
    assert network(torch.ones(1, 3, 32, 32)).equal(first + 1)


def test_training_starts_from_the_weights_and_nothing_else_needs_them(
    put: Put, hub: Path, fit: Callable[..., Trainer], tmp_path: Path
) -> None:
    def module() -> ClassifierModule:
        return ClassifierModule(Pretrained(SMALL, 3), optimizer=lambda params: torch.optim.SGD(params, lr=0.0))

    def filters(module: ClassifierModule) -> Tensor:
        return module.network.network.conv5[0].weight

    stand_in, path = put(), tmp_path / "last.ckpt"
    first = module()
    fit(first, max_epochs=1).save_checkpoint(path)
    assert filters(first).equal(stand_in["conv5.0.weight"])
    next(hub.iterdir()).unlink()
    restored = ClassifierModule.load_from_checkpoint(path, network=Pretrained(SMALL, 3)).eval()
    image = torch.rand(2, 3, 32, 32)
    assert restored(image).equal(first.eval()(image))
    resumed = module()
    fit(resumed, max_epochs=2, ckpt_path=path)
    assert filters(resumed).equal(filters(first))
    with pytest.raises(PretrainedWeightsError, match="could not be fetched"):
        fit(module(), max_epochs=1)


def changed(network: nn.Module) -> dict[str, Tensor]:
    return {key: value + 1 for key, value in network.state_dict().items()}


def load_of_other_classes(network: Pretrained, path: Path) -> None:
    torch.save(Pretrained(SMALL, num_classes=9, weights=None).state_dict(), path)
    with pytest.warns(UserWarning, match="has 9 classes and .* 3.* the head 'fc'"):
        load_weights(network, path)


@pytest.mark.parametrize(
    "load",
    [
        lambda network, path: network.load_state_dict(changed(network)),
        lambda network, path: network.network.load_state_dict(changed(network)),
        lambda network, path: (module := ClassifierModule(network)).load_state_dict(changed(module)),
        lambda network, path: (torch.save(changed(network), path), load_weights(network, path)),
        load_of_other_classes,
    ],
)
def test_loaded_weights_are_not_overwritten(load: Callable[..., object], put: Put, tmp_path: Path) -> None:
    put()  # it could be read
    network = Pretrained(SMALL, num_classes=3).eval()
    assert "network.conv5.0.weight" in ClassifierModule(network).state_dict()
    load(network, tmp_path / "weights.pt")
    state = copy.deepcopy(network.state_dict())
    assert not network.pending
    network.load_pretrained()
    network(torch.rand(1, 3, 32, 32))
    assert all(value.equal(state[key]) for key, value in network.state_dict().items())


def test_loading_something_else_leaves_it_pending() -> None:
    """Nothing, a layer of another network, a head alone, its own tensors, and what does not fit."""
    network = Pretrained(SMALL, num_classes=3)
    state = network.state_dict()
    head = {key: state[key] + 1 for key in ("fc.weight", "fc.bias")}
    for content in ({}, {"other.weight": torch.ones(1, 1)}, head, state):
        network.load_state_dict(content, strict=False)
        assert network.pending
    with pytest.raises(RuntimeError, match="size mismatch"):
        network.load_state_dict({"conv5.0.weight": torch.ones(1)}, strict=False)
    assert network.pending
    # modules give a teacher its own tensors when a checkpoint holds none: it must not take them for its weights
    module = tmkd_module(network, Pretrained(SMALL, 3), text_weight=0, fusion="mean")
    module.load_state_dict({key: value + 1 for key, value in module.state_dict().items()})
    assert not module.student.pending
    assert module.teacher.extractor.network.pending


def test_copies_are_pending_on_their_own(put: Put) -> None:
    stand_in = put()
    network = Pretrained(SMALL, num_classes=3)
    read, loaded = copy.deepcopy(network), copy.deepcopy(network)
    read.load_pretrained()
    loaded.load_state_dict(changed(loaded))
    assert (network.pending, read.pending, loaded.pending) == (True, False, False)
    assert_read(read, stand_in, "fc")
    network.load_state_dict(changed(network))
    assert not network.pending
    assert read.state_dict().keys() == stand_in.keys()  # the names were copied too


@pytest.mark.parametrize(("name", "size"), [("googlenet", 64), ("inception_v3", 75)])
def test_the_same_network_with_and_without_weights(name: str, size: int) -> None:
    """A checkpoint of the one means the same in the other."""
    networks = [Pretrained(name, 3, weights=weights).eval() for weights in ("DEFAULT", None)]
    networks[0].load_state_dict({key: value.clone() for key, value in networks[1].state_dict().items()})
    assert not networks[0].pending
    image = torch.rand(1, 3, size, size)
    with torch.no_grad():
        assert networks[0](image).equal(networks[1](image))


def test_wrong_arguments() -> None:
    for arguments, message in (
        ({"name": "resnet81"}, "no classification network 'resnet81': choose from .*'resnet18'"),
        ({"name": "xyz"}, "no classification network 'xyz': choose from .*'alexnet'"),
        ({"name": "fcn_resnet50"}, "no classification network 'fcn_resnet50'"),
        ({"name": "resnet50", "weights": "V2"}, r"no weights 'V2': .*\['IMAGENET1K_V1', .*'DEFAULT'\], or None"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"name": "squeezenet1_1"}, "squeezenet1_1 has no linear layer as its head"),
    ):
        with pytest.raises(ValueError, match=message):
            Pretrained(**{"name": "resnet18", "num_classes": 3, **arguments})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mobilenet_v2", {"width_mult": 0.5}, r"mobilenet_v2-.*\.pth does not fit .*features\.0\.0\.weight.{,350}$"),
        ("googlenet", {"aux_logits": True}, r"other shapes: aux1\.fc2\.weight is \(1000, 1024\) instead of \(3, 1024"),
    ],
)
@pytest.mark.filterwarnings("ignore:auxiliary heads")
def test_weights_of_another_network(name: str, options: dict[str, Any], message: str, put: Put) -> None:
    put(name)
    network = Pretrained(name, num_classes=3, options=options)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match=message):
        network.load_pretrained()
    assert network.pending
    assert all(value.equal(before[key]) for key, value in network.state_dict().items())


def test_without_internet_the_message_names_a_file_that_helps(put: Put, hub: Path, tmp_path: Path) -> None:
    put()
    (elsewhere,) = hub.iterdir()
    elsewhere = elsewhere.rename(tmp_path / "elsewhere")
    network = Pretrained(SMALL, num_classes=3)
    url = "https://download.pytorch.org/models/shufflenetv2_x0.5-f707e7126e.pth"
    with pytest.raises(PretrainedWeightsError, match=f"could not be fetched from {url}.*no route to host") as caught:
        network(torch.rand(1, 3, 32, 32))
    message = str(caught.value)
    assert all(part in message for part in ["ShuffleNet_V2_X0_5_Weights", "TORCH_HOME", "weights=None"])
    named = re.search(r"the file (\S+) is not there", message)
    elsewhere.rename(named.group(1))
    network.load_pretrained()
    assert not network.pending


@pytest.mark.parametrize("damage", ["cut off", "<html>", "", "zip", "legacy"])
def test_damaged_and_malicious_files_are_refused(damage: str, put: Put, hub: Path, tmp_path: Path) -> None:
    state, hacked = put(), tmp_path / "hacked"
    (path,) = hub.iterdir()
    if damage in ("zip", "legacy"):
        torch.save({**state, "payload": Trap(hacked)}, path, _use_new_zipfile_serialization=damage == "zip")
    else:
        path.write_bytes(path.read_bytes()[:-100] if damage == "cut off" else damage.encode())
    network = Pretrained(SMALL, num_classes=3)
    with pytest.raises(PretrainedWeightsError, match=rf"{path}.* cannot be read safely .*: delete the file"):
        network.load_pretrained()
    assert network.pending
    assert not hacked.exists()


def torchvisions(name: str, **arguments: object) -> dict[str, object]:
    return {"class_path": f"torchvision.models.{name}", "init_args": arguments}


def test_torchvisions_weights_are_deferred() -> None:
    config = without_weights(torchvisions("resnet18", weights="IMAGENET1K_V1", progress=True, groups=1))
    assert config["class_path"] == PRETRAINED
    network = Pretrained(**config["init_args"])
    assert network.state_dict().keys() == get_model("resnet18").state_dict().keys()
    network = Pretrained(**without_weights(torchvisions("googlenet", weights="DEFAULT"))["init_args"])
    assert network.network.transform_input  # as its weights want, which they do not show
    assert not Pretrained("googlenet", weights=None, options={"transform_input": False}).network.transform_input
    with torch.device("meta"):
        network = Pretrained("vit_b_16", 3, weights="IMAGENET1K_SWAG_E2E_V1")
    assert network.network.image_size == 384
    mine = {"class_path": "my_project.Net", "init_args": {"pretrained": True}}  # configs that read no weights stay
    theirs = torchvisions("resnet18", weights=None), torchvisions("quantization.resnet18", weights="DEFAULT")
    for config in (*theirs, mine, "torchvision.models.resnet18", 3, None):
        assert without_weights(config) == config


def test_parts_inside_others_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    timms = {"class_path": "timm.create_model", "init_args": {"model_name": "resnet18", "pretrained": True}}
    extractor = {"class_path": "tmkd_lightning.Extractor", "init_args": {"network": timms, "mean": [0.5, 0.5, 0.5]}}
    inside = without_weights(extractor)["init_args"]
    assert inside["network"]["init_args"] == {"model_name": "resnet18", "pretrained": False}
    assert inside["mean"] == [0.5, 0.5, 0.5]
    assert timms["init_args"]["pretrained"]  # what was given is not changed
    assert without_weights([timms])[0] == inside["network"]
    monkeypatch.setattr(timm.models._builder, "load_pretrained", lambda *args, **options: None)
    one, other = (timm.create_model("mobilenetv3_small_050", pretrained=on, num_classes=3) for on in (True, False))
    shapes = [{key: value.shape for key, value in network.state_dict().items()} for network in (one, other)]
    assert shapes[0] == shapes[1]  # timm's layers do not depend on weights


class FiveClasses(LightningDataModule):
    num_classes = property(lambda self: 5)  # known only once it is built, as from folders


class LinkedCLI(LightningCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for network in ("teacher", "student"):
            target = f"model.init_args.{network}.init_args.num_classes"
            parser.link_arguments("data.num_classes", target, apply_on="instantiate")


@pytest.mark.filterwarnings("ignore")  # Lightning and jsonargparse of each other
def test_classes_are_linked_from_the_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arguments = {
        "teacher": {"name": SMALL},
        "student": {"name": "mobilenet_v3_small", "weights": None, "options": {"dropout": 0.75}},
    }
    networks = {role: {"class_path": PRETRAINED, "init_args": given} for role, given in arguments.items()}
    model = {"class_path": "tmkd_lightning.TMKDModule", "init_args": networks}
    config = {"data": f"{__name__}.FiveClasses", "model": model}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(sys, "argv", ["tmkd", "--config", str(tmp_path / "config.yaml")])
    cli = LinkedCLI(LightningModule, LightningDataModule, run=False, subclass_mode_model=True, subclass_mode_data=True)
    teacher, student = cli.model.teacher.extractor.network, cli.model.student
    assert cli.model.num_classes == teacher.network.fc.out_features == 5
    assert (teacher.pending, student.pending) == (True, False)
    assert student.network.classifier[2].p == 0.75
