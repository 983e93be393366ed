"""The page on real photographs: every cell runs, on made-up pictures and an untrained transformer.

Nobody has run it in full for the book, so nothing in it may look as if somebody had. The outputs of
the cells before the download are real: they were stored by running those cells alone.
"""

from pathlib import Path

import numpy as np
import pytest

nbformat = pytest.importorskip("nbformat")
timm = pytest.importorskip("timm")
PATH = Path(__file__).parents[2] / "notebooks" / "photographs.ipynb"
WNIDS = ("n01440764", "n02102040", "n02979186", "n03000684", "n03028079", "n03394916", "n03417042",
         "n03425413", "n03445777", "n03888257")


@pytest.fixture(scope="module")
def cells():
    notebook = nbformat.read(PATH, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def waits(cell) -> bool:
    return "needs-download" in cell.metadata.get("tags", [])


@pytest.fixture
def imagenette(tmp_path, monkeypatch):
    """A folder as torchvision unpacks it: the ten classes, a few pictures of each, two shapes."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (("train", 15), ("val", 3)):
        for number, wnid in enumerate(WNIDS):
            folder = tmp_path / "data" / "imagenette2-320" / split / wnid
            folder.mkdir(parents=True)
            for i in range(count):
                shape = (320, 400, 3) if i % 2 else (360, 320, 3)
                small = rng.integers(0, 200, (4, 4, 3)) + 5 * number
                picture = Image.fromarray(small.astype(np.uint8)).resize(shape[1::-1])
                if i == 0:
                    picture = picture.convert("L")  # ImageNet has grey photographs, too
                picture.save(folder / f"{wnid}_{i}.JPEG")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.cpu_count", lambda: 0)  # loaders without processes: faster for so few


@pytest.fixture
def untrained(monkeypatch):
    """timm without downloads: the same model, but tiny and untrained. Notes what was asked for."""
    asked, create = [], timm.create_model

    def create_model(name, pretrained=False, **settings):
        asked.append((name, pretrained))
        return create(name, pretrained=False, depth=2, embed_dim=48, num_heads=3, **settings)

    monkeypatch.setattr(timm, "create_model", create_model)
    return asked


def test_every_cell_runs(cells, imagenette, untrained, home, smoke):
    space = {}
    for cell in cells[1:]:  # not the installation
        exec(compile(cell.source, PATH.name, "exec"), space)
    assert ("vit_small_patch16_224.augreg_in21k_ft_in1k", True) in untrained
    data = space["data"]
    assert [len(data.train), len(data.val), len(data.test)] == [135, 15, 30]
    assert data.classes[:2] == ("tench", "English springer")
    batch = next(data.train.batches(64, seed=0))
    assert batch.x.shape == (64, 3, 160, 160)
    assert 0 <= batch.x.min() < batch.x.max() <= 1
    final = space["final"]
    assert final.arms == ["labels only", "ViT teacher"]
    assert len(final.values("ViT teacher", "agreement")) == 2  # smoke mode: two seeds
    assert (Path("runs") / "ViT teacher 1.safetensors").exists()


def test_the_adapter_and_the_ten_rows(cells, imagenette, untrained, home, smoke):
    """The teacher sees what timm's own transform would show it, and answers for our classes."""
    import torch

    import kdcourse as kd

    space = {}
    for cell in cells[1:]:
        exec(compile(cell.source, PATH.name, "exec"), space)
        if "teacher.to(" in cell.source:
            break
    teacher, vit = space["teacher"], space["vit"]
    x = torch.nn.functional.interpolate(torch.rand(2, 3, 5, 5), 160, mode="bilinear")
    seen = teacher.transform(x)
    assert seen.shape == (2, 3, 224, 224)
    mean, std = (torch.tensor(space["config"][key])[:, None, None] for key in ("mean", "std"))
    back = torch.nn.functional.interpolate(seen * std + mean, 160, mode="bilinear", antialias=True)
    torch.testing.assert_close(back, x, atol=0.02, rtol=0)
    assert space["rows"] == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]
    assert vit.head.weight.shape == (10, 48)
    assert teacher.predict(x).shape == (2, 10)
    assert isinstance(teacher, kd.Live)


def test_nothing_looks_as_if_it_had_been_run(cells):
    assert [waits(cell) for cell in cells] == sorted(waits(cell) for cell in cells)
    for cell in cells:
        if waits(cell):
            assert cell.outputs == [], cell.source
            assert cell.execution_count is None
    done = [cell for cell in cells if not waits(cell)]
    assert [cell.execution_count for cell in done] == list(range(1, len(done) + 1))
    (estimate,) = [output.data["text/markdown"] for cell in done for output in cell.outputs]
    assert "not a measurement" in estimate


def test_says_so_in_a_box_before_the_first_cell():
    first = nbformat.read(PATH, as_version=4).cells[0].source
    assert "```{admonition} Not run here: needs a download and a GPU" in first
    assert "*estimated*" in first


def test_its_code_is_short(cells):
    assert max(len(cell.source.splitlines()) for cell in cells) <= 30
    assert '"google.colab" in sys.modules' in cells[0].source
