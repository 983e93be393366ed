"""What "Distil your own model" and the questions promise: each "yes" has a test.

The two tables at the end say which. Oracles are loops, closed forms and the losses of transformers
and torch; where another file has the test already, its name stands there.
"""

import copy
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

import kdcourse as kd
from kdcourse.losses import (
    CE,
    DKD,
    KD,
    SP,
    HiddenCosine,
    Hint,
    LogitMSE,
    RKDAngle,
    RKDDistance,
    SquaredError,
)

ROOT = Path(__file__).parents[2]
OWN_MODEL, FAQ = ((ROOT / "book" / name).read_text("utf-8") for name in ("own_model.md", "faq.md"))
RECIPE = kd.Recipe(epochs=1, batch=8, lr=1e-3)
close = torch.testing.assert_close


def net(width=8, seed=0, classes=4):
    return kd.models.convnet(width=width, channels=3, classes=classes, size=16, seed=seed)


def images(count=32):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def arrays(y=None, **settings):
    y = torch.arange(32) % 4 if y is None else y
    return kd.data.from_arrays(images(), y, **settings)


def trained(student, teacher, data, objective=None):
    """Distil; the student has changed, the teacher has not; give the scheme."""
    scheme = kd.Distiller(student, teacher, objective)
    old = copy.deepcopy(student.state_dict())
    before = [copy.deepcopy(network.state_dict()) for network in scheme.teacher.networks()]
    assert len(kd.fit(scheme, data, RECIPE, seed=0)) == 1
    assert any(not torch.equal(old[name], now) for name, now in student.state_dict().items())
    for state, network in zip(before, scheme.teacher.networks(), strict=True):
        for name, now in network.state_dict().items():
            assert torch.equal(state[name], now), name
    return scheme


def parts(scheme, data, size=8):
    """Terms of a batch in eval mode, and the batch."""
    batch = next(data.train.batches(size))
    with torch.no_grad():
        return scheme.eval()(batch).parts, batch


def kl(student, teacher, T):
    """T² KL of rows [M, K]: a loop in float64, to which logits in float32 come this near."""
    total = 0.0
    for z, v in zip(student.double(), teacher.double(), strict=True):
        p, log_q = (v / T).softmax(0), (z / T).log_softmax(0)
        total += sum(a * (math.log(a) - b) for a, b in zip(p.tolist(), log_q.tolist(), strict=True))
    return pytest.approx(T**2 * total / len(student), rel=1e-3, abs=2e-6)


# --- text ---------------------------------------------------------------------------------------


def bert(kind, width, **settings):
    transformers = pytest.importorskip("transformers")
    return getattr(transformers, f"BertFor{kind}")(transformers.BertConfig(
        vocab_size=50, hidden_size=width, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=2 * width, **settings))


def texts(y, **settings):
    words = torch.randint(50, (32, 9), generator=torch.Generator().manual_seed(1))
    x = {"input_ids": words, "attention_mask": torch.ones_like(words)}
    return kd.data.from_arrays(x, y, **settings)


@pytest.mark.parametrize(("kind", "shape", "task"), [
    ("SequenceClassification", (32,), None), ("TokenClassification", (32, 9), kd.tasks.Tokens())])
def text_classifiers_and_taggers(kind, shape, task):
    y = torch.randint(3, shape, generator=torch.Generator().manual_seed(2))
    data = texts(y, task=task)
    scheme = trained(bert(kind, 16, num_labels=3), bert(kind, 32, num_labels=3), data,
                     CE() + KD(T=2))
    found, batch = parts(scheme, data)
    expected = scheme.student(**batch.x, labels=batch.y)
    close(found["CE"], expected.loss)
    theirs = scheme.teacher.model(**batch.x).logits
    assert float(found["KD"]) == kl(expected.logits.flatten(0, -2), theirs.flatten(0, -2), 2)


class Cut(nn.Module):
    """A language model without the last rows of its vocabulary, which are padding."""

    def __init__(self, model, size):
        super().__init__()
        self.model, self.size = model, size

    def forward(self, **x):
        return self.model(**x).logits[..., : self.size]


def gpt(width, size):
    transformers = pytest.importorskip("transformers")
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=size, n_embd=width, n_layer=2, n_head=2, n_positions=16, eos_token_id=0,
        bos_token_id=0))


def language(words):
    """Next tokens as labels; the last one has none."""
    following = words.roll(-1, 1)
    following[:, -1] = -100
    return kd.data.from_arrays({"input_ids": words}, following, classes=50,
                               task=kd.tasks.Tokens())


@pytest.mark.parametrize("size", [50, 56, 64])
def language_models(size):
    """Labels are shifted; padding of the vocabulary is cut, and refused where it is not."""
    words = torch.randint(50, (32, 9), generator=torch.Generator().manual_seed(1))
    data, teacher = language(words), gpt(32, size)
    if size > 50:
        with pytest.raises(ValueError, match=f"got 50 and {size}"):
            kd.fit(kd.Distiller(gpt(16, 50), teacher, KD(T=2)), data, RECIPE)
        teacher = Cut(teacher, 50)
    scheme = trained(gpt(16, 50), teacher, data, CE() + KD(T=2))
    found, batch = parts(scheme, data)
    expected = scheme.student(**batch.x, labels=batch.x["input_ids"])  # shifts by itself
    close(found["CE"], expected.loss)
    theirs = scheme.teacher.predict(batch.x)
    assert float(found["KD"]) == kl(expected.logits[:, :-1].flatten(0, 1),
                                    theirs[:, :-1].flatten(0, 1), 2)


def texts_that_the_teacher_writes():
    """Distillation by texts: the student is trained on them as labels, with any vocabulary."""
    begin = torch.randint(1, 50, (32, 3), generator=torch.Generator().manual_seed(1))
    words = gpt(32, 50).eval().generate(begin, max_new_tokens=6, min_new_tokens=6,
                                        do_sample=True, pad_token_id=0)
    data, student = language(words), gpt(16, 50)
    scheme = kd.Supervised(student)
    kd.fit(scheme, data, RECIPE, seed=0)
    found, batch = parts(scheme, data)
    close(found["CE"], student(**batch.x, labels=batch.x["input_ids"]).loss)


class Ours(nn.Module):
    """A student that takes its own entry of the inputs."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, **others):
        return self.model(input_ids)


def two_tokenizers_and_one_class_per_text():
    """Each network gets the text as its own tokens; here they differ in length and vocabulary."""
    words, theirs = torch.randint(30, (32, 9)), torch.randint(50, (32, 7))
    data = kd.data.from_arrays({"input_ids": words, "teacher_ids": theirs}, torch.arange(32) % 3)
    model = bert("SequenceClassification", 32, num_labels=3)
    teacher = kd.Live(model, transform=lambda x: {"input_ids": x["teacher_ids"]})
    student = Ours(bert("SequenceClassification", 16, num_labels=3))
    close(kd.Cached(teacher, data).logits, model.eval()(data.train.x["teacher_ids"]).logits)
    scheme = trained(student, teacher, data, CE() + KD(T=2))
    found, batch = parts(scheme, data)
    assert float(found["KD"]) == kl(student(**batch.x).logits,
                                    model(batch.x["teacher_ids"]).logits, 2)


def encoders_and_decoders():
    """A translator: inputs of encoder and decoder, labels of the decoder."""
    transformers = pytest.importorskip("transformers")
    student, teacher = (transformers.T5ForConditionalGeneration(transformers.T5Config(
        vocab_size=50, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
        decoder_start_token_id=0)) for width in (16, 32))
    source, target = torch.randint(1, 50, (2, 32, 6))
    shifted = torch.cat([torch.zeros(32, 1).long(), target[:, :-1]], 1)
    target[:, -2:] = -100
    data = kd.data.from_arrays({"input_ids": source, "decoder_input_ids": shifted}, target,
                               classes=50, task=kd.tasks.Tokens())
    scheme = trained(student, teacher, data, CE() + KD(T=2))
    found, batch = parts(scheme, data)
    close(found["CE"], F.cross_entropy(student(**batch.x).logits.flatten(0, 1), batch.y.flatten()))


class Answers(nn.Module):
    """The lines of the page: logits of start and end as two rows."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, **x):
        out = self.model(**x)
        return torch.stack([out.start_logits, out.end_logits], 1)


def question_answering():
    assert "`torch.stack([out.start_logits, out.end_logits], 1)`" in " ".join(OWN_MODEL.split())
    y = torch.randint(9, (32, 2), generator=torch.Generator().manual_seed(2))
    data = texts(y, classes=9, task=kd.tasks.Tokens())
    scheme = trained(*(Answers(bert("QuestionAnswering", width)) for width in (16, 32)), data,
                     CE() + KD(T=2))
    found, batch = parts(scheme, data)
    ours = scheme.student.model(**batch.x, start_positions=batch.y[:, 0],
                                end_positions=batch.y[:, 1])
    theirs = scheme.teacher.model.model(**batch.x)
    close(found["CE"], ours.loss)
    both = [torch.cat([one.start_logits, one.end_logits]) for one in (ours, theirs)]
    assert float(found["KD"]) == kl(*both, 2)


@pytest.mark.parametrize("objective", [
    lambda: HiddenCosine("bert.encoder.layer.1", "bert.encoder.layer.1"),
    lambda: Hint("bert.embeddings", "bert.embeddings")])
def hidden_states_of_texts(objective):
    """Also where the student recomputes its activations in the backward pass."""
    y, grads = torch.arange(32) % 3, []
    data = texts(y)
    settings = {"num_labels": 3, "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}
    teacher = bert("SequenceClassification", 32, **settings)
    for again in (False, True):
        torch.manual_seed(0)
        student = bert("SequenceClassification", 16, **settings)
        if again:
            student.gradient_checkpointing_enable()
        scheme = kd.Distiller(student, teacher, CE() + objective())
        batch = next(data.train.batches(8))
        scheme.build(batch, 0)
        scheme.train()(batch).loss.backward()
        grads.append([p.grad for p in student.parameters() if p.grad is not None])
    for one, other in zip(*grads, strict=True):
        close(one, other)
    trained(bert("SequenceClassification", 16, num_labels=3), teacher, data, CE() + objective())


# --- segmenters, detectors, embeddings ----------------------------------------------------------


class Full(nn.Module):
    """A segmenter whose logits are brought to the size of its image."""

    def __init__(self, width, stride):
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, width, 3, stride, 1), nn.ReLU(),
                                   nn.Conv2d(width, 4, 1))

    def forward(self, x):
        return F.interpolate(self.model(x), x.shape[-2:], mode="bilinear")


class TwoMaps(Full):
    """As the segmenters of torchvision with an auxiliary head."""

    def forward(self, x):
        logits = super().forward(x)
        return {"out": logits, "aux": logits.roll(1, 1)}


def segmenters_with_an_auxiliary_head():
    data = arrays(torch.randint(4, (32, 16, 16)), classes=4, task=kd.tasks.Pixels())
    ours, theirs = TwoMaps(8, 2), TwoMaps(16, 1)
    scheme = trained(*(kd.Logits(one, "out") for one in (ours, theirs)), data, KD(T=2))
    found, batch = parts(scheme, data)
    rows = [one.eval()(batch.x)["out"].movedim(1, -1).flatten(0, 2) for one in (ours, theirs)]
    assert float(found["KD"]) == kl(*rows, 2)
    with pytest.raises((TypeError, ValueError), match="several that could be logits: 'out'"):
        kd.fit(kd.Distiller(Full(8, 2), TwoMaps(16, 1)), data, RECIPE)


@pytest.mark.parametrize("stride", [1, 2, 4])
def segmenters(stride):
    y = torch.randint(4, (32, 16, 16), generator=torch.Generator().manual_seed(2))
    y[:, :3] = 255
    data = arrays(y, classes=4, task=kd.tasks.Pixels(ignore=255))
    scheme = trained(Full(8, stride), Full(16, 1), data, CE() + KD(T=2))
    found, batch = parts(scheme, data)
    ours, theirs = scheme.student(batch.x), scheme.teacher.predict(batch.x)
    close(found["CE"], F.cross_entropy(ours, batch.y, ignore_index=255))
    counted = batch.y != 255
    rows = [logits.movedim(1, -1)[counted] for logits in (ours, theirs)]
    assert float(found["KD"]) == kl(*rows, 2)


def detectors():
    """The page's lines: its term reaches the student's backbone, and equals a formula."""
    (block,) = re.findall(r"^```python\n(from torchvision.models.detection.*?)^```", OWN_MODEL,
                          re.S | re.M)
    scope = {"torch": torch, "kd": kd}
    exec(compile(block, "own_model.md", "exec"), scope)
    grads = [p.grad for p in scope["student"].backbone.parameters()]
    assert any(grad is not None and grad.abs().sum() > 0 for grad in grads)
    assert all(p.grad is None for p in scope["teacher"].parameters())
    maps, expected = scope["maps"], 0
    for level, ours in maps["student"].items():
        q, p = (tensor.double().square().mean(1).flatten(1)
                for tensor in (ours, maps["teacher"][level]))
        difference = q / q.norm(dim=1, keepdim=True) - p / p.norm(dim=1, keepdim=True)
        expected = expected + 1000 * difference.square().mean()  # the authors' code, --beta 1e3
    close(scope["parts"]["maps"].double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("objective", [
    lambda: Hint("7", "7"), lambda: SP("7", "7"), lambda: RKDDistance("7", "7") + RKDAngle("7", "7")
])
def backbones(objective):
    """Networks without classes, of two widths, and no labels."""
    student, teacher = (nn.Sequential(*net(width, seed)[:-1]) for width, seed in ((8, 0), (16, 1)))
    data = kd.data.from_arrays(images(), None, task=kd.tasks.Unlabelled())
    scheme = trained(student, teacher, data, objective())
    shapes = [network(images(2)).shape for network in (kd.export(scheme), student, teacher)]
    assert shapes[0] == shapes[1] != shapes[2]


def stored_embeddings():
    """Targets [N, D] of any teacher: the mean squared error of torch."""
    targets = nn.functional.normalize(torch.randn(32, 6), dim=1)
    data, student = arrays(targets, task=kd.tasks.Numbers()), net(classes=6)
    scheme = kd.Supervised(student, SquaredError())
    kd.fit(scheme, data, RECIPE, seed=0)
    found, batch = parts(scheme, data)
    close(found["SquaredError"], F.mse_loss(student(batch.x), batch.y))


# --- labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [1, 4])
def several_labels_and_one_output(classes):
    """Sigmoids: binary cross-entropy, and the divergence of Bernoulli distributions."""
    y = (torch.rand(32, classes, generator=torch.Generator().manual_seed(2)) < 0.5).float()
    data = arrays(y, task=kd.tasks.Labels())
    scheme = trained(net(classes=classes), net(16, 1, classes), data, CE() + KD(T=2))
    found, batch = parts(scheme, data)
    ours, theirs = scheme.student(batch.x), scheme.teacher.predict(batch.x)
    close(found["CE"], F.binary_cross_entropy_with_logits(ours, batch.y))
    p, q = (theirs.double() / 2).sigmoid(), (ours.double() / 2).sigmoid()
    bernoulli = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    assert float(found["KD"]) == pytest.approx(4 * float(bernoulli.mean()), rel=1e-3)


def regression():
    data = arrays(torch.randn(32, 2), task=kd.tasks.Numbers())
    scheme = trained(net(classes=2), net(16, 1, 2), data, SquaredError() + LogitMSE())
    found, batch = parts(scheme, data)
    close(found["SquaredError"], F.mse_loss(scheme.student(batch.x), batch.y))
    with pytest.raises(ValueError, match="compares classes"):
        kd.fit(kd.Distiller(net(classes=2), net(16, 1, 2), KD(T=4)), data, RECIPE)


@pytest.mark.parametrize("weight", [[1, 1, 5, 1], [0.2, 0, 3, 1]])
def rare_classes(weight):
    data = arrays()
    scheme = trained(net(), net(16, 1), data, CE(weight=weight) + KD(T=4))
    found, batch = parts(scheme, data)
    close(found["CE"], F.cross_entropy(scheme.student(batch.x), batch.y,
                                       torch.tensor(weight).float()))


@pytest.mark.parametrize("ignore", [-100, 255])
def missing_labels(ignore):
    """In a loop: out of the term with labels, and counted by the teacher's. Data refuse them."""
    z, v = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, ignore, 3, ignore, 1, 2])
    close(kd.losses.cross_entropy(z, y, ignore_index=ignore),
          F.cross_entropy(z[y != ignore], y[y != ignore]))
    assert float(kd.losses.kd(z, v, T=4)) == kl(z, v, 4)
    labels = torch.arange(32) % 4
    labels[5] = ignore
    whole = DataLoader(TensorDataset(images(), labels), batch_size=32)
    for make in (lambda: arrays(labels, classes=4),
                 lambda: kd.data.from_loaders(whole, whole, classes=4)):
        with pytest.raises(ValueError, match="Expected labels from 0 to 3"):
            make()


def no_labels():
    data = kd.data.from_arrays(images(), None, classes=4)
    scheme = trained(net(), net(16, 1), data, KD(T=4))
    found, batch = parts(scheme, data)
    assert float(found["KD"]) == kl(scheme.student(batch.x), scheme.teacher.predict(batch.x), 4)


@pytest.mark.parametrize("mix", ["MixUp", "CutMix"])
def mixed_images(mix):
    """The labels are mixed in the loader, and the teacher gets the mixed images."""
    v2 = pytest.importorskip("torchvision.transforms.v2")
    mixing = getattr(v2, mix)(num_classes=4)
    whole = TensorDataset(images(), torch.arange(32) % 4)
    loader = DataLoader(whole, batch_size=8, shuffle=True,
                        collate_fn=lambda rows: mixing(*default_collate(rows)))
    data = kd.data.from_loaders(loader, DataLoader(whole, batch_size=8), classes=4)
    scheme = trained(net(), net(16, 1), data, CE() + KD(T=4))
    found, batch = parts(scheme, data)
    assert batch.y.shape == (8, 4)
    close(found["CE"], -(batch.y * scheme.student(batch.x).log_softmax(1)).sum(1).mean())
    assert float(found["KD"]) == kl(scheme.student(batch.x), scheme.teacher.predict(batch.x), 4)
    with pytest.raises(ValueError, match=r"DKD.*soft labels"):
        kd.fit(kd.Distiller(net(), net(16, 1), DKD()), data, RECIPE)


# --- students, teachers, precision, data --------------------------------------------------------


@pytest.mark.parametrize("loss", [kd.losses.kd, kd.losses.dkd, kd.losses.dist])
def mixed_precision(loss):
    """`fit` has bfloat16; a loss gives float32 under autocast and for half precision."""
    kd.fit(kd.Distiller(net(), net(16, 1)), arrays(),
           kd.Recipe(epochs=1, batch=8, precision="bf16"))
    student, teacher = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0)).half()
    labels = (torch.arange(8) % 4,) if loss is kd.losses.dkd else ()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(student, teacher, *labels)
    assert value.dtype == torch.float32
    close(value, loss(student.float(), teacher.float(), *labels))


def quantisation_aware_training():
    quantization = pytest.importorskip("torch.ao.quantization")
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("no int8 kernels here")
    student = nn.Sequential(quantization.QuantStub(), nn.Conv2d(3, 8, 3, 2), nn.ReLU(),
                            nn.Flatten(), nn.Linear(8 * 49, 4), quantization.DeQuantStub())
    student.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    quantization.prepare_qat(student.train(), inplace=True)
    scheme = trained(student, net(16, 1), arrays())
    small = quantization.convert(kd.export(scheme))
    assert small[1].weight().dtype == torch.qint8
    agree = small(images()).argmax(1) == scheme.student.eval()(images()).argmax(1)
    assert agree.float().mean() > 0.8


@pytest.mark.parametrize("amount", [0.3, 0.8])
def pruning(amount):
    from torch.nn.utils import prune

    student = net()
    for part in student.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            prune.l1_unstructured(part, "weight", amount)
    small = kd.export(trained(student, net(16, 1), arrays()))
    for part in small.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            prune.remove(part, "weight")
            assert float((part.weight == 0).float().mean()) == pytest.approx(amount, abs=0.02)


class LowRank(nn.Module):
    """W + B A, as LoRA has it (arXiv:2106.09685, section 4.1)."""

    def __init__(self, weight):
        super().__init__()
        self.a = nn.Parameter(0.1 * torch.randn(2, weight.shape[1]))
        self.b = nn.Parameter(torch.zeros(weight.shape[0], 2))

    def forward(self, weight):
        return weight + self.b @ self.a


SHARES = "copy.deepcopy(base, {id(p): p for p in base.parameters()})"


@pytest.mark.parametrize("shared", [True, False])
def low_rank_adapters(shared):
    """The teacher is the frozen base, with weights of its own or those of the student."""
    base = teacher = net().requires_grad_(False)
    assert SHARES in OWN_MODEL
    student = (eval(SHARES, {"copy": copy, "base": base}) if shared
               else copy.deepcopy(teacher).requires_grad_(False))
    assert all((one is other) == shared for one, other in
               zip(student.parameters(), base.parameters(), strict=True))
    low = LowRank(student[-1].weight)
    nn.utils.parametrize.register_parametrization(student[-1], "weight", low)
    frozen = {name: p.clone() for name, p in student.named_parameters() if not p.requires_grad}
    trained(student, teacher, arrays())
    assert len(frozen) == len(list(teacher.parameters())) and low.b.abs().sum() > 0
    assert all(torch.equal(p, student.get_parameter(name)) for name, p in frozen.items())


def adapters_of_peft():
    peft = pytest.importorskip("peft")
    words = torch.randint(50, (32, 9), generator=torch.Generator().manual_seed(1))
    student = peft.get_peft_model(gpt(16, 50), peft.LoraConfig(
        task_type="CAUSAL_LM", target_modules=["c_attn"], fan_in_fan_out=True))
    frozen = {name: p.clone() for name, p in student.named_parameters() if not p.requires_grad}
    scheme = trained(student, gpt(32, 50), language(words), CE() + KD(T=2))
    assert all(torch.equal(p, student.get_parameter(name)) for name, p in frozen.items())
    merged = kd.export(scheme).merge_and_unload()
    close(merged(words).logits, student.eval()(words).logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def data_from_loaders(tmp_path, dtype):
    """`fit`, the doctor, `Cached` and `augmented` read loaders."""
    whole = TensorDataset(images(), torch.arange(32) % 4, torch.arange(32))
    data = kd.data.from_loaders(DataLoader(whole, batch_size=8, shuffle=True),
                                DataLoader(whole, batch_size=8), classes=4)
    teacher = net(16, 1)
    trained(net(), teacher, data)
    stored = kd.Cached(teacher, data, path=tmp_path / "answers", dtype=dtype)
    assert kd.doctor(trained(net(), stored, data), data).looked
    batch = data.train.one(3)
    close(stored(batch).logits, teacher(batch.x), rtol=1e-3, atol=1e-3)
    views = kd.augmented(data, views=2, shift=0.1)
    stored = kd.Cached(teacher, views, path=tmp_path / "views", dtype=dtype)
    trained(net(), stored, views)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def teachers_in_half_precision(dtype):
    teacher = net(16, 1).to(dtype)
    scheme = trained(net(), teacher, arrays())
    found, batch = parts(scheme, arrays())
    assert found["KD"].dtype in (torch.float32, dtype)
    assert found["KD"].dtype.itemsize >= 4
    assert float(found["KD"]) == kl(scheme.student(batch.x), teacher(batch.x.to(dtype)), 4)


@pytest.mark.parametrize("how", ["trace", "script", "freeze"])
def teachers_as_torchscript(how, tmp_path):
    teacher = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
                            nn.Linear(8 * 196, 4)).eval()
    stored = torch.jit.trace(teacher, images(2)) if how == "trace" else torch.jit.script(teacher)
    torch.jit.save(torch.jit.freeze(stored) if how == "freeze" else stored, tmp_path / "t.pt")
    scheme = trained(net(), kd.Live(torch.jit.load(tmp_path / "t.pt")), arrays())
    close(scheme.teacher.predict(images(4)), teacher(images(4)))


def teachers_as_exported_programs(tmp_path):
    teacher = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 196, 4))
    sizes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(teacher.eval(), (images(4),), dynamic_shapes=sizes),
                      tmp_path / "t.pt2")
    program = torch.export.load(tmp_path / "t.pt2").module()
    scheme = trained(net(), kd.Live(program), arrays())
    close(scheme.teacher.predict(images(4)), teacher(images(4)))


# --- more questions of the FAQ ------------------------------------------------------------------


def one_view_for_both():
    """Stored logits are those of the view that the student gets, for every view."""
    data = kd.augmented(arrays(), views=3, shift=0.2, flip=True)
    teacher = net(16, 1)
    live, stored = kd.Live(teacher), kd.Cached(teacher, data)
    for epoch in range(3):
        for batch in data.train.batches(8, seed=0, epoch=epoch):
            close(stored(batch).logits, live(batch).logits, rtol=1e-4, atol=1e-5)


def stored_logits_are_refused_for_other_data():
    stored = kd.Cached(net(16, 1), arrays())
    others = kd.data.from_arrays(images().flip(0), torch.arange(32) % 4)
    with pytest.raises(ValueError, match="cached"):
        kd.fit(kd.Distiller(net(), stored), others, RECIPE)


def a_student_like_its_teacher():
    trained(net(8, 0), net(8, 1), arrays())
    shared = net()
    with pytest.raises(ValueError, match="weights of its own"):
        kd.Distiller(shared, shared)


@pytest.mark.parametrize("turned", [False, True])
def convnets_and_transformers(turned):
    pair = [net(), kd.models.vit(dim=16, depth=1, heads=2, patch=4, channels=3, classes=4, size=16)]
    trained(*(pair[::-1] if turned else pair), arrays())


def several_teachers():
    teachers = [net(16, seed) for seed in range(3)]
    scheme = trained(net(), kd.Ensemble(teachers), arrays())
    close(scheme.teacher.predict(images(4)),
          torch.stack([teacher(images(4)) for teacher in teachers]).mean(0))
    own = kd.Ensemble([kd.Live(teachers[0], lambda x: (x - 0.5) / 0.2), teachers[1]])
    close(own.predict(images(4)),
          (teachers[0]((images(4) - 0.5) / 0.2) + teachers[1](images(4))) / 2)


@pytest.mark.parametrize("objective", [
    lambda: CE() + 1e-3 * Hint("3", "3"), lambda: CE() + SP("7", "7"),
    lambda: CE() + RKDDistance("7", "7")])
def teachers_of_other_classes(objective):
    trained(net(), net(16, 1, 100), arrays(), objective())
    with pytest.raises(ValueError, match="got 4 and 100"):
        kd.fit(kd.Distiller(net(), net(16, 1, 100), KD(T=4)), arrays(), RECIPE)


def a_frozen_teacher():
    """`kd.Live`: eval mode, no gradient, no trainable weight."""
    teacher = net(16, 1).train()
    live = kd.Live(teacher).train()
    assert not any(part.training for part in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not live(next(arrays().train.batches(8))).logits.requires_grad


def projections_are_trained_and_left_out():
    scheme = kd.Distiller(net(), net(16, 1), CE() + Hint("3", "3"))
    data = arrays()
    scheme.build(next(data.train.batches(8)), seed=0)
    old = copy.deepcopy(scheme.objective.state_dict())
    kd.fit(scheme, data, RECIPE, seed=0)
    assert old and any(not torch.equal(old[name], now)
                       for name, now in scheme.objective.state_dict().items())
    assert kd.measure.parameters(kd.export(scheme)) == kd.measure.parameters(net())


def kl_and_cross_entropy_have_one_gradient():
    z, v = torch.randn(2, 8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z.requires_grad_()
    one, other = (torch.autograd.grad(loss(z, v, T=3), z)[0]
                  for loss in (kd.losses.kd, kd.losses.soft_cross_entropy))
    close(one, other)


# --- the tables ---------------------------------------------------------------------------------

IN_OWN_MODEL = "tests/book/test_own_model.py::"
PROCESSES = ["tests/training/test_processes.py::test_two_processes_train_what_one_would",
             IN_OWN_MODEL + "test_the_lines_run_as_a_script_in_two_processes"]

STUDENTS = "tests/schemes/test_students.py::test_"
OUTPUTS = [segmenters_with_an_auxiliary_head, STUDENTS + "one_of_several_outputs_is_chosen",
           STUDENTS + "heads_that_are_named_by_the_terms_need_no_choice"]
FROZEN = [STUDENTS + "frozen_batch_normalisation_stays_frozen",
          STUDENTS + "the_doctor_names_what_stays_in_eval_mode"]
AVERAGE = [STUDENTS + "the_average_is_validated_reported_exported_and_kept"]
SIZES = ["tests/data/test_streams.py::test_images_of_several_sizes_train",
         "tests/data/test_folder.py::test_images_of_several_sizes_are_brought_to_one"]
MISSING = [missing_labels, segmenters,
           "tests/test_tasks.py::test_tokens_are_cross_entropy_with_an_ignored_label"]
LARGEST = ["tests/teachers/test_cached_streams.py::test_" + name for name in (
    "what_was_computed_before_a_stop_is_not_computed_again",
    "the_rest_is_one_more_class", "a_loader_that_augments_is_refused",
    "losses_for_which_the_largest_logits_are_not_enough_are_refused")]
LOADERS = [data_from_loaders, *LARGEST, *(f"tests/data/test_streams.py::test_{name}" for name in (
    "the_doctor_finds_in_a_stream_what_it_finds_in_memory",
    "compare_measures_a_stream_as_data_in_memory", "crd_on_a_stream_is_crd_in_memory")),
    "tests/data/test_augmented_streams.py::test_views_are_those_of_the_same_data_in_memory",
    "tests/teachers/test_cached_views.py::test_answers_are_found_by_id_and_view"]

MAPS = "tests/test_tasks_of_maps.py::test_"
SIGMOIDS = MAPS + "sigmoids_of_pixels_are_binary_cross_entropy_and_bernoulli_divergences"
TWO_SIZES = "tests/test_tasks.py::test_segmenters_of_two_sizes_name_both"

WORKS_FOR = {  # what is said to work on "Distil your own model": its tests
    "Text classifiers and taggers": [text_classifiers_and_taggers,
                                     two_tokenizers_and_one_class_per_text],
    "Language models and translators": [language_models, encoders_and_decoders,
                                        texts_that_the_teacher_writes],
    "Question answering": [question_answering],
    "Segmenters": [segmenters, segmenters_with_an_auxiliary_head, TWO_SIZES, SIGMOIDS],
    "Depth and heatmaps": [MAPS + "maps_of_numbers_are_squared_errors"],
    "Detectors": [detectors],
    "Self-supervised backbones": [backbones],
    "Embedding models": [backbones, stored_embeddings],
    "Several outputs": OUTPUTS,
    "Several labels, regression, no labels": [several_labels_and_one_output, regression, no_labels],
    "Rare classes": [rare_classes],
    "Missing labels": MISSING,
    "Binary problems": [several_labels_and_one_output],
    "MixUp and CutMix": [mixed_images],
    "Mixed precision": [mixed_precision],
    "Several GPUs": [*PROCESSES, "tests/training/test_sharded.py::"
                     "test_losses_train_a_sharded_student_with_a_sharded_teacher"],
    "Quantisation-aware training": [quantisation_aware_training],
    "Pruning": [pruning],
    "LoRA": [low_rank_adapters, adapters_of_peft],
    "Frozen layers": FROZEN,
    "An average of the student's weights": AVERAGE,
    "Data that do not fit into memory": LOADERS,
    "Images of several sizes": SIZES,
    "Teachers in half precision": [teachers_in_half_precision],
    "Teachers as files": [teachers_as_torchscript, teachers_as_exported_programs,
                          IN_OWN_MODEL + "test_the_page_runs_from_top_to_bottom"],
}

ANSWERS = {  # question of the FAQ: its tests
    "Why KL divergence and not cross-entropy?": [kl_and_cross_entropy_have_one_gradient],
    "Do I need labels at all?": [no_labels],
    "`eval()`, `no_grad()`, `requires_grad_(False)`: which one do I need?": [a_frozen_teacher],
    "May the teacher see augmented images?": [one_view_for_both],
    "May I store the teacher's answers?": [
        stored_logits_are_refused_for_other_data, data_from_loaders, *LARGEST],
    "Teacher and student want different normalisation, or another image size. What now?": [
        "tests/teachers/test_live.py::test_a_teacher_sees_its_own_normalisation_and_size"],
    "Can the student be the same network as the teacher?": [
        a_student_like_its_teacher, low_rank_adapters],
    "Can they be of different kinds, such as a convnet and a transformer?": [
        convnets_and_transformers],
    "May I have several teachers?": [several_teachers],
    "My teacher knows other classes than I do. Can I use it?": [teachers_of_other_classes],
    "My teacher is stored in half precision, or as a file. What now?": [
        teachers_in_half_precision, teachers_as_torchscript, teachers_as_exported_programs],
    "My model returns several outputs. Which one is compared?": OUTPUTS,
    "What is the projection for, and do I ship it?": [
        projections_are_trained_and_left_out,
        "tests/losses/test_feature.py::test_a_regressor_of_many_million_weights_is_refused"],
    "Does a frozen part of the student stay frozen?": FROZEN,
    "May I ship the average of the student's weights over the training?": AVERAGE,
    "Some classes are rare, or some labels are missing. What now?": [rare_classes, *MISSING],
    "Must all images have one size?": SIZES,
    "My data do not fit into memory. What does not work?": LOADERS,
    "Must I tune the student without a teacher, too?": [
        IN_OWN_MODEL + "test_the_numbers_of_the_recipe_are_those_of_recorded_rows"],
    "Why is my student worse than without a teacher?": [
        f"tests/doctor/test_doctor.py::test_{name}" for name in (
            "a_teacher_in_train_mode", "an_untrained_teacher", "classes_in_another_order",
            "a_teacher_that_is_normalised_twice")],
    "Does it work for regression?": [regression, MAPS + "maps_of_numbers_are_squared_errors"],
    "And for detection and segmentation?": [detectors, segmenters, TWO_SIZES, SIGMOIDS],
    "And for language models?": [text_classifiers_and_taggers, language_models,
                                 hidden_states_of_texts, texts_that_the_teacher_writes],
    "Can I combine it with quantisation or pruning?": [quantisation_aware_training, pruning],
}

TESTS = {test.__name__: test for tests in (*WORKS_FOR.values(), *ANSWERS.values())
         for test in tests if not isinstance(test, str)}
globals().update({f"test_{name}": test for name, test in TESTS.items()})


def elsewhere():
    return sorted({test for tests in (*WORKS_FOR.values(), *ANSWERS.values())
                   for test in tests if isinstance(test, str)})


@pytest.mark.parametrize("place", elsewhere())
def test_the_tests_of_other_files_exist(place):
    path, name = place.split("::")
    assert f"\ndef {name}(" in (ROOT / path).read_text("utf-8")


def test_everything_that_is_said_to_work_has_a_test():
    section = OWN_MODEL.split("## Does it work for …")[1].split("\n## ")[0]
    leads = re.findall(r"^\* \*\*(.*?): (?:yes|with)|^\* \*\*(.*?): yes\*\*", section, re.M)
    assert [one or other for one, other in leads] == list(WORKS_FOR)
    assert section.count("\n* **") == len(WORKS_FOR)


def test_every_yes_of_the_questions_has_a_test():
    _, *found = re.split(r"^### (.*)\n", FAQ, flags=re.M)
    answers = dict(zip(found[::2], found[1::2], strict=True))
    assert set(ANSWERS) <= set(answers)
    yes = [question for question, answer in answers.items()
           if answer.strip().startswith("Yes") or "`kd." in answer]
    assert len(yes) >= 12
    assert [question for question in yes if question not in ANSWERS] == []
