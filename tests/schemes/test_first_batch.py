"""What fails on the first batch is a sentence: who, on which inputs, and the error itself."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kdcourse as kd
from kdcourse import losses, tasks
from kdcourse.teachers import Teacher

RECIPE = kd.Recipe(epochs=1, batch=8)
K = 3


def data(width=7):
    return kd.data.from_arrays(torch.rand(40, width), torch.arange(40) % K, name="rows")


def net(width=7, outputs=K):
    return nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, outputs))


class Wraps(nn.Module):
    """A network that reads something of the output of another one."""

    def __init__(self, read, only_in_training=False):
        super().__init__()
        self.inner, self.read, self.only = net(), read, only_in_training

    def forward(self, x):
        z = self.inner(x)
        return self.read(z) if self.training or not self.only else z


FAULTS = [(lambda z: z.pooler_output, AttributeError), (lambda z: {"a": z}["logits"], KeyError),
          (lambda z: (z,)[1], IndexError)]
SHAPES = [(lambda z: z.view(-1, 5, 5, 5), RuntimeError), (lambda z: z(1), TypeError)]


@pytest.mark.parametrize(("read", "kind"), FAULTS + SHAPES)
def test_a_student_whose_forward_fails(read, kind):
    scheme = kd.Distiller(Wraps(read), net())
    with pytest.raises(ValueError, match=rf"student that runs on inputs \[2, 7\] float32, got "
                                         rf"{kind.__name__}: ") as caught:
        kd.fit(scheme, data(), RECIPE)
    assert type(caught.value.__cause__) is kind
    (found,) = kd.doctor(scheme, data())
    assert "student that runs on inputs [2, 7] float32" in found.problem


@pytest.mark.parametrize(("read", "kind"), FAULTS)
def test_a_student_whose_forward_fails_in_train_mode_only(read, kind):
    scheme = kd.Distiller(Wraps(read, only_in_training=True), net())
    with pytest.raises(ValueError, match=rf"in train mode that runs on inputs \[4, 7\] float32, "
                                         rf"got {kind.__name__}: ") as caught:
        kd.fit(scheme, data(), RECIPE)
    assert type(caught.value.__cause__) is kind


@pytest.mark.parametrize(("read", "kind"), FAULTS + SHAPES)
def test_a_teacher_whose_forward_fails(read, kind):
    for make in (lambda: kd.fit(kd.Distiller(net(), Wraps(read)), data(), RECIPE),
                 lambda: kd.Live(Wraps(read)).check(data()),
                 lambda: kd.Cached(Wraps(read), data())):
        with pytest.raises(ValueError, match=rf"a teacher that .*got {kind.__name__}: .*"
                                             r"\[2, 7\] float32\.") as caught:
            make()
        assert type(caught.value.__cause__) is kind


class Own(Teacher):
    """A teacher of a user's own, without a `check`."""

    def __init__(self, read):
        super().__init__()
        self.read = read

    def forward(self, batch, paths=()):
        return kd.Output(self.read(batch.x))


@pytest.mark.parametrize(("read", "kind"), FAULTS)
def test_a_teacher_of_ones_own_whose_forward_fails(read, kind, tmp_path):
    x, y = torch.rand(16, 7), torch.arange(16) % K
    stream = kd.data.from_loaders([(x, y, torch.arange(16))], [(x, y)], classes=K)
    for make, shape in ((lambda: kd.Cached(Own(read), data()), 32),
                        (lambda: kd.Cached(Own(read), stream, tmp_path / "a"), 16),
                        (lambda: kd.fit(kd.Distiller(net(), Own(read)), data(), RECIPE), 4)):
        with pytest.raises(ValueError, match=rf"teacher.* that runs on inputs \[{shape}, 7\] "
                                             rf"float32, got {kind.__name__}: ") as caught:
            make()
        assert type(caught.value.__cause__) is kind


def test_inputs_by_name_are_listed():
    class Encoder(nn.Module):
        def forward(self, ids):
            return ids.hidden

    x = {"ids": torch.zeros(40, 5).long()}
    rows = kd.data.from_arrays(x, torch.arange(40) % K)
    with pytest.raises(ValueError, match=r"runs on inputs {ids: \[2, 5\] int64}, got AttributeErr"):
        kd.fit(kd.Supervised(Encoder()), rows, RECIPE)


class Text(nn.Module):
    def __init__(self, ids=50):
        super().__init__()
        self.table, self.head = nn.Embedding(ids, 4), nn.Linear(4, K)

    def forward(self, input_ids, segment=None):
        return self.head(self.table(input_ids).mean(1))


class Masked(Text):
    def forward(self, input_ids, mask):
        return super().forward(input_ids)


def texts(*more, name="input_ids"):
    x = torch.arange(200).view(40, 5) % 50
    return kd.data.from_arrays({name: x} | {one: x.clone() for one in more}, torch.arange(40) % K)


def features():
    return losses.HiddenMSE("table", "table")


@pytest.mark.parametrize(("student", "teacher", "rows", "message"), [
    (Text, Text, texts("types"), r"unexpected .*'types'. .*leave out what it does not"),
    (Masked, Text, texts(), r"missing .*'mask'. .*add what it lacks"),
    (Text, Text, texts(name="ids"), r"'ids'. .*arguments of its forward, by name"),
    (Masked, Text, texts("mask"), r"unexpected .*'mask'. .*leave out what it does not"),
    (lambda: Text(30), Text, texts(), r"not below its size. .*this network's tokenizer"),
    (Text, lambda: Text(30), texts(), r"not below its size. .*this network's tokenizer"),
])
@pytest.mark.parametrize("objective", [losses.hinton, features])
@pytest.mark.filterwarnings("ignore:The student is trained on inner tensors")
def test_inputs_by_name_that_do_not_fit(student, teacher, rows, message, objective):
    scheme = kd.Distiller(student(), teacher(), objective())
    with pytest.raises(ValueError, match=message) as caught:
        kd.fit(scheme, rows, RECIPE)
    assert "v2." not in str(caught.value)
    (found,) = kd.doctor(scheme, rows)
    assert str(caught.value) in found.problem


def test_token_ids_in_the_place_of_images():
    ids, y = torch.arange(200).view(40, 5) % 50, torch.arange(40) % K
    rows = kd.data.from_arrays(ids, y)
    for scheme in (kd.Supervised(Text()), kd.Distiller(net(5), Text()),
                   kd.Supervised(nn.Sequential(nn.EmbeddingBag(50, 4), nn.Linear(4, K)))):
        with pytest.raises(ValueError, match=r'in a dict, .*from_arrays\({"input_ids": x}, y\)'):
            kd.fit(scheme, rows, RECIPE)
    kd.fit(kd.Supervised(Text()), kd.data.from_arrays({"input_ids": ids}, y), RECIPE)


class Loses(nn.Module):
    """A network that computes its own loss in train mode, as detectors do."""

    def __init__(self, *_, **__):
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3)

    def forward(self, images, targets=None):
        if self.training and targets is None:
            raise AssertionError("targets are needed in train mode")
        return [{"scores": self.backbone(images).mean((1, 2, 3))}]


@pytest.mark.filterwarnings("ignore:The student is trained on inner tensors")
@pytest.mark.parametrize("kind", ["FasterRCNN", "RetinaNet", None])
def test_detectors(kind):
    detection = pytest.importorskip("torchvision").models.detection
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3, 8))
    backbone.out_channels = 4
    generator = detection.anchor_utils.AnchorGenerator(((8,),), ((1.0,),))
    pool = {"box_roi_pool": detection.faster_rcnn.MultiScaleRoIAlign(["0"], 2, 2)}
    detector = getattr(detection, kind or "", Loses)(
        backbone, K, min_size=32, max_size=32, **(pool if kind == "FasterRCNN" else {}),
        **{"anchor_generator" if kind == "RetinaNet" else "rpn_anchor_generator": generator})
    images = kd.data.from_arrays(torch.rand(40, 3, 32, 32), torch.arange(40) % K)
    teacher = kd.models.convnet(width=4, channels=3, classes=K, size=32)
    first = next(path for path, part in detector.named_modules() if isinstance(part, nn.Conv2d))
    for objective, message in (
            (losses.Hint(first, "1"), r"in train mode .*AssertionError: targets .*backbone"),
            (None, r"Expected logits of shape \[B, K\] from the model, got a list")):
        scheme = kd.Distiller(detector, teacher, objective)
        with pytest.raises((TypeError, ValueError), match=message) as caught:
            kd.fit(scheme, images, RECIPE)
        (found,) = kd.doctor(scheme, images)
        assert str(caught.value) in found.problem


def test_an_output_without_logits_is_still_another_error():
    class Pair(nn.Module):
        def forward(self, x):
            return {"a": x, "b": x}

    with pytest.raises(TypeError, match="several that could be logits"):
        kd.fit(kd.Supervised(Pair()), data(), RECIPE)
    with pytest.raises(kd.outputs.OutputError if hasattr(kd, "outputs") else TypeError,
                       match="as the entry 'c'"):
        kd.fit(kd.Supervised(kd.Logits(Pair(), "c")), data(), RECIPE)


# --- terms on rows that name a module -----------------------------------------------------------


class Heads(nn.Module):
    """Logits, and an auxiliary head for other classes or of another size."""

    def __init__(self, aux=K, size=None):
        super().__init__()
        self.head, self.aux = nn.Conv2d(1, K, 1), nn.Conv2d(1, aux, 1)
        self.resize = nn.Upsample(size or (8, 8))

    def forward(self, x):
        self.resize(self.aux(x))
        return self.head(x)


def pixels():
    return kd.data.from_arrays(torch.rand(40, 1, 8, 8), torch.randint(
        K, (40, 8, 8), generator=torch.Generator().manual_seed(0)), task=tasks.Pixels(),
        classes=K)


@pytest.mark.parametrize("size", [(4, 4), (4, 16), (2, 32)])  # two of them of 64 pixels
@pytest.mark.parametrize("term", [lambda: losses.KD(student="resize"), lambda: losses.DIST(
    student="resize"), lambda: losses.LogitMSE(student="resize")])
def test_a_head_of_another_size_than_the_teacher(size, term):
    H, W = size
    with pytest.raises(ValueError, match=rf"'resize' of the student and the logits of the teacher "
                                         rf"of one size.*\[4, 3, {H}, {W}\] and \[4, 3, 8, 8\]"):
        kd.fit(kd.Distiller(Heads(size=size), Heads(), losses.CE() + term()), pixels(), RECIPE)
    with pytest.raises(ValueError, match=r"the logits of the student and 'resize' of the teacher"):
        kd.fit(kd.Distiller(Heads(), Heads(size=size), losses.CE() + losses.KD(
            teacher="resize")), pixels(), RECIPE)


def test_a_head_of_another_size_than_the_labels():
    with pytest.raises(ValueError, match=r"'resize' of the student and the logits of the student "
                                         r"of one size.*\[4, 3, 4, 16\] and \[4, 3, 8, 8\]"):
        kd.fit(kd.Supervised(Heads(size=(4, 16)), losses.CE() + 0.5 * losses.CE("resize")),
               pixels(), RECIPE)
    kd.fit(kd.Supervised(Heads(aux=5), losses.CE() + 0.5 * losses.CE("resize")), pixels(), RECIPE,
           device="cpu")


@pytest.mark.parametrize(("kind", "aux"), [("pixels", 5), ("classes", 11)])
def test_a_head_for_other_classes_than_the_teacher(kind, aux):
    if kind == "pixels":
        scheme = kd.Distiller(Heads(aux), Heads(), losses.CE() + losses.KD(student="aux"))
        rows, shapes = pixels(), r"\[4, 5, 8, 8\] and \[4, 3, 8, 8\]"
    else:
        student = nn.Sequential(nn.Linear(7, aux), nn.Linear(aux, K))
        scheme = kd.Distiller(student, net(), losses.CE() + losses.KD(student="0"))
        rows, shapes = data(), r"\[4, 11\] and \[4, 3\]"
    with pytest.raises(ValueError, match=rf"of the student and the logits of the teacher of one "
                                         rf"size.*KD\(T=4, student='.*, got {shapes}"):
        kd.fit(scheme, rows, RECIPE)


def test_heads_that_fit_train_what_pytorch_computes():
    scheme = kd.Distiller(Heads(), Heads(), losses.CE() + losses.KD(T=2, student="resize"))
    rows = pixels()
    batch = next(rows.train.batches(8))
    z, v = scheme.student.aux(batch.x), scheme.teacher.model.head(batch.x)
    kl = 4 * F.kl_div((z / 2).log_softmax(1), (v / 2).softmax(1), reduction="none").sum(1).mean()
    torch.testing.assert_close(scheme(batch).parts["KD"], kl)
    kd.fit(scheme, rows, RECIPE, device="cpu")
