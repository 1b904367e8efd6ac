"""Networks built again without the weights that they once began with."""

from __future__ import annotations

import timm
import torchvision

from tmkd_lightning.models import Pretrained
from tmkd_lightning.models.pretrained import without_weights


def torchvisions(name: str, **arguments: object) -> dict[str, object]:
    return {"class_path": f"torchvision.models.{name}", "init_args": arguments}


def test_torchvisions_weights_are_put_off() -> None:
    config = without_weights(
        torchvisions("resnet18", weights="IMAGENET1K_V1", progress=True, num_classes=1000, groups=1)
    )
    assert config["class_path"] == "tmkd_lightning.models.Pretrained"
    network = Pretrained(**config["init_args"])
    assert network.state_dict().keys() == torchvision.models.resnet18().state_dict().keys()


def test_torchvisions_builders_that_change_with_weights_still_do() -> None:
    """``googlenet(weights=...)`` transforms its input, which its weights do not show."""
    network = Pretrained(**without_weights(torchvisions("googlenet", weights="DEFAULT"))["init_args"])
    assert network.network.transform_input
    assert not Pretrained("googlenet", weights=None, options={"transform_input": False}).network.transform_input


def test_what_reads_no_weights_stays() -> None:
    for config in (
        torchvisions("resnet18", weights=None, num_classes=3),
        torchvisions("quantization.resnet18", weights="DEFAULT"),
        {"class_path": "my_project.Net", "init_args": {"pretrained": True}},
        "torchvision.models.resnet18",
        3,
        None,
    ):
        assert without_weights(config) == config


def test_parts_inside_others_are_found() -> None:
    timms = {"class_path": "timm.create_model", "init_args": {"model_name": "resnet18", "pretrained": True}}
    extractor = {"class_path": "tmkd_lightning.Extractor", "init_args": {"network": timms, "mean": [0.5, 0.5, 0.5]}}
    inside = without_weights(extractor)["init_args"]
    assert inside["network"]["init_args"] == {"model_name": "resnet18", "pretrained": False}
    assert inside["mean"] == [0.5, 0.5, 0.5]
    assert timms["init_args"]["pretrained"]  # what was given is not changed
    assert without_weights([timms])[0] == inside["network"]


def test_timms_layers_do_not_depend_on_weights(monkeypatch) -> None:
    monkeypatch.setattr(timm.models._builder, "load_pretrained", lambda *args, **options: None)
    one, other = (timm.create_model("mobilenetv3_small_050", pretrained=on, num_classes=3) for on in (True, False))
    shapes = [{key: value.shape for key, value in network.state_dict().items()} for network in (one, other)]
    assert shapes[0] == shapes[1]
