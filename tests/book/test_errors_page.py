"""The page "Errors in well-known tutorials and libraries".

Its code runs, and what it says of others is true of what is installed here, or of the expression
that they wrote.

Elsewhere: tests/losses/parity.py (torchdistill, TRL, timm's formula; `nox -s parity`),
test_mistakes.py (the default reduction, swapped arguments, a missing logarithm, one too many, a
teacher in train mode, a plain list), test_pages.py (the weights of the sources in notation.md, so
also DeiT, labml, TextBrewer).
"""

import copy
import inspect
import re
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdcourse import checks, losses

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "book" / "errors.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)
REFERENCES = dict(re.findall(r"^\[([\w-]+)\]: (\S+)$", PAGE, re.M))


def entries() -> dict[str, str]:
    """Tutorial or library: what is said of it."""
    text = re.split(r"^\[[\w-]+\]: ", PAGE.split("\n## Tutorials\n")[1], flags=re.M)[0]
    _, *found = re.split(r"^### (.*)\n", text, flags=re.M)
    return {title: re.split(r"^## ", more, flags=re.M)[0]
            for title, more in zip(found[::2], found[1::2], strict=True)}


def logits(count=8, classes=10, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(2, count, classes, generator=rng)


# --- the page -----------------------------------------------------------------------------------


def test_the_code_on_the_page_runs(capsys):
    scope = {"__name__": "page"}
    for block in BLOCKS:
        exec(compile(block, "errors.md", "exec"), scope)
    assert "hardly better than guessing" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:reduction")  # PyTorch warns of "mean"
@pytest.mark.parametrize(("written", "instead", "law"), [
    ("T**2 * ", "", "T² is missing"),
    ('"batchmean"', '"mean"', "number of classes"),
])
def test_its_check_names_the_mistakes_that_the_page_proposes(written, instead, law):
    assert BLOCKS[0].count(written) == 1
    code = compile(BLOCKS[0].replace(written, instead), "errors.md", "exec")
    with pytest.raises(AssertionError, match=law):
        exec(code, {})


def test_each_entry_says_what_was_read_and_when_and_where_to_look():
    last = ["See it", "Read"]
    ours = r"/notebooks/03_|\]\((?:#[\w-]+|[\w./]+\.(?:md|ipynb))\)"
    assert len(entries()) >= 20
    for title, text in entries().items():
        points = re.findall(r"^\* \*\*(.+?):\*\*", text, re.M)
        assert set(points) <= {"Right", "Watch out", "Mended", "On purpose", *last}, title
        assert points[-2:] == last, title
        see, read = re.split(r"^\* \*\*(?:See it|Read):\*\*", text, flags=re.M)[1:]
        assert "November 2026" in " ".join(read.split()), title
        assert re.search(r"commit\s+`[0-9a-f]{8}`|version \d|the thread", read), title
        assert re.search(ours, see), f"{title}: no link to a page of this book"
        assert re.search(r"\]\[[\w-]+\]", text), f"{title}: no link to the source"


def test_the_index_at_the_top_has_every_entry():
    index = re.findall(r"^\* - \[.+?\]\(#(use-[\w-]+)\)\n  - \S", PAGE, re.M)
    labels = dict(re.findall(r"^\((use-[\w-]+)\)=\n### (.*)$", PAGE, re.M))
    assert index == list(dict.fromkeys(index)) and set(index) == set(labels)
    assert set(labels.values()) == set(entries())


def test_links_have_a_valid_form_and_each_is_used():
    for name, address in REFERENCES.items():
        assert re.fullmatch(
            r"https://github\.com/[\w.-]+/[\w.-]+/"
            r"?(?:issues(?:/\d+)?|pull/\d+|blob/(?:[0-9a-f]{40}|main)/[\w./-]+)?", address), name
    used = re.findall(r"\]\[([\w-]+)\]", PAGE)
    assert set(used) == set(REFERENCES)
    assert len(set(REFERENCES.values())) == len(REFERENCES)


def test_the_commit_that_is_named_is_the_one_that_is_linked():
    for name, short in re.findall(r"`([0-9a-f]{8})`\]\[([\w-]+)\]", PAGE):
        assert f"/blob/{name}" in REFERENCES[short], short


def test_versions_that_are_named_link_to_their_project_and_ours_are_the_pinned_ones():
    found = re.findall(r"\[version (\S+?)\]\[([\w-]+)\]", PAGE)
    assert len(found) >= 6
    assert all(REFERENCES[name].count("/") == 4 for _, name in found)
    timm = next(version for version, name in found if name == "ti-repo")
    assert f"timm=={timm}\n" in (ROOT / "constraints.txt").read_text("utf-8")


def test_mistakes_are_linked_by_their_number():
    found = re.findall(r"#mistake-(\d+)\">mistake (\d+)</a>", PAGE)
    assert len(found) == PAGE.count("#mistake-") > 15
    assert all(link == text for link, text in found)
    chapter = (ROOT / "notebooks" / "03_getting_it_right.ipynb").read_text("utf-8")
    assert all(f"mistake-{number}" in chapter for number, _ in found)


# --- PyTorch's tutorial -------------------------------------------------------------------------


def by_hand(student, teacher, T):
    """How the tutorial writes its soft term."""
    p = F.softmax(teacher.detach() / T, dim=-1)
    return (p * (p.log() - F.log_softmax(student / T, dim=-1))).sum() / len(student) * T**2


def test_p_times_log_p_is_right_until_a_probability_becomes_zero():
    student, teacher = logits()
    torch.testing.assert_close(by_hand(student, teacher, 2.0), losses.kd(student, teacher, 2.0))
    sure = teacher.clone()
    sure[0, 0] = 1000
    assert by_hand(student, sure, 2.0).isnan()
    assert losses.kd(student, sure, 2.0).isfinite()
    less_sure = teacher.clone()
    less_sure[0, 0] = 50
    assert by_hand(student, less_sure, 2.0).isfinite()
    assert by_hand(student.half(), less_sure.half(), 2.0).isnan()
    assert {"overflow"} <= set(checks.broken_laws(by_hand)) <= {"overflow", "masked",
                                                              "half precision"}


def test_pooling_a_flattened_map_pairs_other_channels_and_other_pixels():
    channel, row, _ = torch.meshgrid(*map(torch.arange, (32, 8, 8)), indexing="ij")
    place = lambda x: F.avg_pool1d(x.double().flatten()[None, None], 2).flatten()  # noqa: E731
    theirs = torch.stack([place(channel), place(row)], 1)  # of the 2048, each two are one
    ours = torch.stack([channel[:16].flatten(), row[:16].flatten()], 1).double()
    same = (theirs == ours).all(1)
    assert len(theirs) == len(ours) == 1024
    assert same.double().mean() < 0.05
    assert (channel[:16].flatten()[7 * 64 + 6 * 8 + 4], *theirs[7 * 64 + 6 * 8 + 4]) == (7, 15, 5)


# --- Hugging Face's guide -----------------------------------------------------------------------


def test_the_trainer_has_other_arguments_than_the_guide_gives_it(tmp_path):
    transformers = pytest.importorskip("transformers")
    given = inspect.signature(transformers.Trainer.__init__).parameters
    assert "args" in given and "training_args" not in given

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x, labels):
            return {"loss": F.cross_entropy(self.layer(x), labels)}

    class FromTheGuide(transformers.Trainer):
        def compute_loss(self, student, inputs, return_outputs=False):
            return student(**inputs)["loss"]

    trainer = FromTheGuide(
        model=Network(), train_dataset=[{"x": torch.ones(2), "labels": torch.tensor(0)}] * 8,
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path), max_steps=1, report_to="none", use_cpu=True,
            disable_tqdm=True, save_strategy="no"))
    with pytest.raises(TypeError, match="num_items_in_batch"):
        trainer.train()


# --- labml --------------------------------------------------------------------------------------


def test_without_running_statistics_eval_mode_does_not_help():
    norm = nn.BatchNorm2d(3, track_running_stats=False).eval()
    x = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(norm(x)[0], norm(x[:4])[0], atol=1e-3)


# --- Keras --------------------------------------------------------------------------------------


def test_keras_takes_the_object_and_not_the_name(monkeypatch):
    if "keras" not in sys.modules:
        monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    distillation = pytest.importorskip("keras.distillation")
    if keras.config.backend() != "torch":
        pytest.skip("Keras runs on another backend here")

    def theirs(**settings):
        return lambda s, t, T: distillation.LogitsDistillation(
            temperature=T, **settings).compute_loss(t, s)

    student, teacher = logits()
    right = losses.kd(student, teacher, 4.0)
    torch.testing.assert_close(theirs(loss=keras.losses.KLDivergence())(student, teacher, 4.0),
                               right, rtol=1e-4, atol=1e-4)
    assert not torch.isclose(theirs()(student, teacher, 4.0), right, rtol=0.1)
    with pytest.raises(AssertionError):
        checks.distillation_loss(theirs())
    named = theirs(loss="categorical_crossentropy")
    assert min(named(*logits(seed=seed), 4.0) for seed in range(20)) < 0
    z = teacher.clone().requires_grad_()  # they agree, and still it pulls
    theirs()(z, teacher, 4.0).backward()
    assert z.grad.norm() > 0.01
    with pytest.raises(Exception, match="size"):
        distillation.FeatureDistillation("cosine_similarity").compute_loss(
            torch.ones(8, 16), torch.ones(8, 32))


# --- KD-Lib, MMRazor, mdistiller ----------------------------------------------------------------


def test_a_network_is_no_teacher_of_itself():
    """KD-Lib's BANN: the term is 0 and pulls nowhere. RCO: two softmaxes cannot say a class."""
    z = logits()[0].requires_grad_()
    value = losses.kd(z, z, 4.0)
    (pull,) = torch.autograd.grad(value, z)
    assert value.abs() < 1e-6 and pull.norm() < 1e-6
    sure = 1000 * torch.eye(100)
    assert F.cross_entropy(sure, torch.arange(100)) == 0
    assert F.cross_entropy(F.softmax(sure, 1), torch.arange(100)) > 3


@pytest.mark.filterwarnings("ignore:size_average")
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_old_argument_beats_the_new_one_except_batchmean(reduction):
    student, teacher = logits()
    both = F.log_softmax(student, 1), F.softmax(teacher, 1)
    found = F.kl_div(*both, size_average=False, reduction=reduction)
    torch.testing.assert_close(found, F.kl_div(*both, reduction="sum"))
    torch.testing.assert_close(F.kl_div(*both, size_average=False, reduction="batchmean"),
                               F.kl_div(*both, reduction="batchmean"))


def test_the_log_of_a_sum_of_probabilities_is_infinite_for_a_sure_student():
    """As DKD's first half is written: the target against all others, from probabilities."""
    student, teacher = logits()
    labels, T = torch.arange(8), 1.0
    target = F.one_hot(labels, 10).bool()

    def first_half(z):
        p, q = (F.softmax(x / T, 1) for x in (teacher, z))
        two = lambda x: torch.stack([(x * target).sum(1), (x * ~target).sum(1)], 1)  # noqa: E731
        return F.kl_div(two(q).log(), two(p), reduction="sum") * T**2 / len(z)

    only = {"alpha": 1.0, "beta": 0.0, "T": T}
    torch.testing.assert_close(first_half(student), losses.dkd(student, teacher, labels, **only))
    sure = 200.0 * target
    assert first_half(sure).isinf()
    assert losses.dkd(sure, teacher, labels, **only).isfinite()


def test_with_two_classes_the_second_half_of_dkd_compares_nothing():
    student, teacher = logits(classes=2)
    target = F.one_hot(torch.arange(8) % 2, 2)
    log_q, p = F.log_softmax(student - 1000 * target, 1), F.softmax(teacher - 1000 * target, 1)
    assert F.kl_div(log_q, p, reduction="sum") == 0


# --- timm ---------------------------------------------------------------------------------------


@pytest.fixture
def timm_task():
    timm = pytest.importorskip("timm")
    tasks = pytest.importorskip("timm.task")

    def make(kind, student="test_resnet", **settings):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            student = timm.create_model(student, num_classes=10, **settings)
            teacher = timm.create_model("test_resnet", num_classes=10)
        return getattr(tasks, kind)(student, teacher, criterion=nn.CrossEntropyLoss(),
                                    device=torch.device("cpu"), verbose=False)
    return make


@pytest.mark.parametrize(("kind", "settings"), [
    ("LogitDistillationTask", {}),
    ("FeatureDistillationTask", {}),
    ("TokenDistillationTask",
     {"student": "deit_tiny_distilled_patch16_224", "img_size": 32, "depth": 1}),
])
def test_timm_keeps_the_teacher_asleep_in_each_task(timm_task, kind, settings):
    task = timm_task(kind, **settings)
    before = copy.deepcopy(task.teacher.state_dict())
    task.train()
    assert task.trainable_module.training
    assert not any(part.training for part in task.teacher.modules())
    size = settings.get("img_size", 64)
    task(torch.rand(4, 3, size, size), torch.arange(4))["loss"].backward()
    assert all(value.equal(before[name]) for name, value in task.teacher.state_dict().items())


def test_timm_normalises_for_the_teacher():
    timm = pytest.importorskip("timm")
    kind = pytest.importorskip("timm.task").DistillationTeacher
    network = timm.create_model("test_resnet", num_classes=10)
    network.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    teacher = kind(network)
    raw = torch.rand(2, 3, 8, 8)
    mean, std = torch.full((1, 3, 1, 1), 0.3), torch.full((1, 3, 1, 1), 0.2)
    torch.testing.assert_close(teacher.normalize_input((raw - mean) / std, mean, std),
                               (raw - 0.5) / 0.5)
    unknown = kind(nn.Conv2d(3, 1, 1))
    torch.testing.assert_close(unknown.mean_kd.flatten(), torch.tensor([0.485, 0.456, 0.406]))


def test_timm_counts_the_teacher_among_the_parts_of_the_task(timm_task):
    task = timm_task("LogitDistillationTask")
    trained = {id(value) for value in task.trainable_module.parameters()}
    assert {id(value) for value in task.parameters()} > trained
    assert any(name.startswith("teacher.") for name in task.state_dict())
    task(torch.rand(4, 3, 64, 64), torch.arange(4))["loss"].backward()
    assert all(value.grad is None for value in task.teacher.parameters())
