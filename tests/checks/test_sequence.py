"""Laws of losses on sequences: ours keep them, and each mistake of other libraries breaks the law
that the page on errors names. The mistakes are written here in words of our own."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import kdcourse as kd
from kdcourse import checks, losses
from kdcourse.losses import chunked
from kdcourse.tasks import Tokens

pytestmark = [pytest.mark.any_device, pytest.mark.filterwarnings("ignore:reduction")]
PAGE = (Path(__file__).parents[2] / "book" / "errors.md").read_text("utf-8")


def kl(s, t, T=1.0):
    """KL(teacher || student) of each position; where the teacher has nothing it adds 0."""
    log_p, log_q = ((x.float() / T).log_softmax(-1) for x in (t, s))
    p = log_p.exp()
    return (p * (log_p - log_q).masked_fill(p == 0, 0)).sum(-1)


def reverse(s, t):
    return kl(t, s)


def mean(values, labels, total=None):
    counts = labels != -100
    return (values * counts).sum() / (counts.sum() if total is None else total)


class Given(torch.autograd.Function):
    """A value, and a gradient that was computed with it."""

    @staticmethod
    def forward(ctx, student, value, gradient):
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx, slope):
        return slope * ctx.saved_tensors[0], None, None


def fused(s, t, y, after=1.0, before=1.0, detached=0.0):
    """A fused kernel: the gradient is computed in the forward pass, the value scaled afterwards."""
    leaf = s.detach().requires_grad_()
    loss = before * mean(kl(leaf, t, T=2), y)
    (gradient,) = torch.autograd.grad(loss, leaf)
    labels = F.cross_entropy(s.detach().transpose(1, 2), y)
    return Given.apply(s, after * loss.detach() + detached * labels, gradient)


def largest(s, t, y, K=8, rest=False):
    """The K largest outputs of the teacher, renormalised, or with the rest as one more."""
    places = t.topk(K, -1).indices
    s, t = s.float(), t.float()
    gathered = [x.log_softmax(-1).gather(-1, places) for x in (s, t)]
    if rest:
        others = [x.log_softmax(-1).scatter(-1, places, -torch.inf).logsumexp(-1, keepdim=True)
                  for x in (s, t)]
        gathered = [torch.cat(pair, -1) for pair in zip(gathered, others, strict=True)]
    return mean(kl(*gathered), y)


def fallback(s, t, y, total=None, per_class=True):
    """The sum over the number of labels where the trainer states it, else a mean."""
    log_q, log_p = s.float().log_softmax(-1), t.float().log_softmax(-1)
    entries = (log_p.exp() * (log_p - log_q))[y != -100]
    if total is not None:
        return entries.sum() / total
    return entries.mean() if per_class else entries.sum(-1).mean()


def cut(s, t, y, split=torch.chunk):
    """Labels cut into 8 parts in one way, logits in another."""
    parts = zip(split(y, 8, 1), s.tensor_split(8, 1), t.tensor_split(8, 1), strict=False)
    return sum((reverse(a, b) * (labels != -100)).sum() for labels, a, b in parts) / (
        (y != -100).sum())


def in_half(s, t, y, up=lambda x: x):
    log_p, log_q = (up(x).log_softmax(-1) for x in (t, s))
    return mean((log_p.exp() * (log_p - log_q)).sum(-1), y)


def padded(s, t, y, value=0.0):
    """A student with fewer outputs than its teacher gets more of them."""
    return mean(kl(F.pad(s, (0, max(0, t.shape[-1] - s.shape[-1])), value=value), t), y)


def padded_with_the_other(s, t, y):
    longest = max(s.shape[-1], t.shape[-1])
    s, t = (torch.cat([x, other[..., x.shape[-1] : longest]], -1) for x, other in ((s, t), (t, s)))
    return mean(kl(s, t), y)


def at(s, t, y, temperature, used=False):
    return mean(kl(s, t, temperature if used else 1.0), y)


def unshifted(s, t, y, right=False):
    """Labels are the tokens; the mask is that of the token itself, not of the next one."""
    return mean(kl(s[:, :-1], t[:, :-1]), y[:, 1:]) if right else mean(kl(s, t), y)


def over_classes(s, t, y, reduction="mean"):
    s, t = s[y != -100].float(), t[y != -100].float()
    return F.kl_div(s.log_softmax(-1), t.log_softmax(-1), reduction=reduction, log_target=True)


def with_padding(s, t, y, right=False):
    return mean(kl(s, t), y if right else y.clamp(min=0))


def between(s, t, y, beta, right=False):
    """The divergence of GKD, with the two KL divergences put in at its ends."""
    p, q = t.float().softmax(-1), s.float().softmax(-1)
    if beta in (0, 1) and not right:
        return mean(reverse(s, t) if beta else kl(s, t), y)
    m = (beta * p + (1 - beta) * q).log()
    return mean(beta * kl(m, t) + (1 - beta) * kl(m, s), y)


# What: the law that finds it, the loss, what makes it right, and settings of the check.
FAULTS = {
    "axolotl: T²": ("slope", fused, {"after": 4.0}, {"before": 4.0}, {}),
    "axolotl: labels without a gradient": ("slope", fused, {"detached": 1.0}, {}, {}),
    "axolotl: renormalised": ("mass", largest, {}, {"rest": True}, {"top": "K"}),
    "axolotl: fallback": ("total", fallback, {}, {"per_class": False}, {"total": "total"}),
    "torchtune: cut": ("length", cut, {}, {"split": torch.tensor_split}, {}),
    "Liger: bfloat16": ("precision", in_half, {}, {"up": torch.Tensor.float}, {}),
    "Liger: pads with 0": ("vocabulary", padded, {}, {"value": -torch.inf}, {}),
    "ms-swift: pads": ("vocabulary", padded_with_the_other, {}, None, {}),
    "TRL: temperature": ("temperature", at, {}, {"used": True}, {"T": "temperature"}),
    "DistillKit: mask": ("shift", unshifted, {}, {"right": True}, {"shift": True}),
    "Model-Optimizer: mean": ("vocabulary", over_classes, {}, {"reduction": "batchmean"}, {}),
    "optipfair: padding": ("padding", with_padding, {}, {"right": True}, {}),
    "ends": ("ends", between, {}, {"right": True}, {"beta": "beta"}),
}


def bound(function, more):
    return lambda *inputs, **named: function(*inputs, **more, **named)


@pytest.mark.parametrize("name", FAULTS)
def test_the_law_finds_it_and_passes_the_mended_loss(name):
    law, loss, wrong, right, settings = FAULTS[name]
    found = checks.broken_sequence_laws(bound(loss, wrong), **settings)
    assert law in found, found
    assert found[law].startswith("Expected ")
    if right is not None:
        assert checks.broken_sequence_laws(bound(loss, right), **settings) == {}


def test_the_sentences_name_the_cause():
    found = {name: checks.broken_sequence_laws(bound(loss, wrong), **settings)[law]
             for name, (law, loss, wrong, _, settings) in FAULTS.items()}
    for name, words in {
        "axolotl: T²": "4 times that. Is the value multiplied",
        "axolotl: renormalised": "renormalised within the largest",
        "axolotl: fallback": "0.0417 times that. Is the mean also one over classes",  # 1 / 24
        "torchtune: cut": "are logits and labels cut at the same places",
        "Liger: bfloat16": "% off. Convert before the softmax",
        "Liger: pads with 0": "Pad the student with -inf",
        "DistillKit: mask": "got one at those after them",
        "Model-Optimizer: mean": "0.8571 times that. Is it divided by the number of outputs",
        "TRL: temperature": "for sampling only",
    }.items():
        assert words in found[name]


# --- steps --------------------------------------------------------------------------------------


def sums(parts):
    return sum((kl(s, t) * (y != -100)).sum() for s, t, y in parts)


def labels(parts):
    return sum((y != -100).sum() for _, _, y in parts)


def right(processes):
    every = [part for parts in processes for part in parts]
    return sum(len(processes) * sums(parts) / labels(every) for parts in processes) / len(processes)


def per_micro_batch(processes):
    """The mean over micro-batches of means over their labels."""
    means = [torch.stack([mean(kl(s, t), y) for s, t, y in parts]).mean() for parts in processes]
    return sum(means) / len(means)


def of_the_data_set(processes):
    """Generated answers, and the number of those that the data set has: 5 in each sample."""
    every = [part for parts in processes for part in parts]
    return sums(every) / sum(5 * len(y) for _, _, y in every)


def without_the_processes(processes):
    """Divided by the labels of all processes, and then the mean over processes by DDP."""
    every = [part for parts in processes for part in parts]
    return sum(sums(parts) / labels(every) for parts in processes) / len(processes)


STEPS = {
    "DistillKit: mean of means": (per_micro_batch, "in 3 micro-batches: it is a mean of means"),
    "TRL: count": (of_the_data_set, "by their number, or by the number of others"),
    "TRL: processes": (without_the_processes, "in 2 processes: 1/2 of it: DDP takes the mean"),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_depends_on_its_parts_is_found(name):
    step, words = STEPS[name]
    with pytest.raises(AssertionError, match=words):
        checks.sequence_step(step)


def test_the_page_on_errors_names_these_laws():
    rows = re.findall(r"^\* - ([\w-]+)\n  - .+\n  - [^*]+?\n  - (\w+)$",
                      PAGE.split(":name: tab-sequence-laws")[1], re.M)
    laws = {"DistillKit: mean of means": "accumulation", "TRL: count": "length",
            "TRL: processes": "processes"} | {name: law for name, (law, *_) in FAULTS.items()}
    del laws["ends"]  # on purpose: a decision of the paper
    assert rows.pop(0) == ("library", "law")
    assert sorted(rows) == sorted((name.partition(":")[0], law) for name, law in laws.items())


def test_the_example_on_the_page_breaks_one_law():
    scope = {"kd": kd}
    (code,) = re.findall(r"^```python\n(def per_token.*?)^print", PAGE, re.S | re.M)
    exec(code, scope)
    assert list(checks.broken_sequence_laws(scope["per_token"], total="total")) == ["empty"]


def test_a_right_step_passes(capsys):
    checks.sequence_step(right)
    assert capsys.readouterr().out == "✓ It passes.\n"


# --- ours ---------------------------------------------------------------------------------------


OURS = ["CE()", "KD(T=2)", "KD(T=1)", "0.1 * CE() + 0.9 * KD(T=4)", "ReverseKL()", "JS(0.3)",
        "SkewKL()", "SkewReverseKL()", "SymmetricKL(0.3)", "TV()", "DKD()"]


def in_chunks(objective, rows):
    def loss(s, t, y, total=None):
        head = torch.eye(s.shape[-1], dtype=s.dtype)
        return chunked(objective, s, head, t, None, y, total=total, chunk=rows)
    return loss


def on_rows(objective):
    def loss(s, t, y, total=None):
        rows = Tokens().rows(s, y=y, total=None if total is None else torch.tensor(total))
        return objective(kd.Output(s).with_rows(rows),
                         kd.Output(t).with_rows(rows._replace(logits=t.flatten(0, 1))))
    return loss


@pytest.mark.parametrize("text", OURS)
@pytest.mark.parametrize("rows", [None, 1, 3, 100])
def test_our_losses_keep_all_laws(text, rows):
    objective = eval(text, vars(losses).copy())
    loss = on_rows(objective) if rows is None else in_chunks(objective, rows)
    assert checks.broken_sequence_laws(loss, total="total") == {}


@pytest.mark.parametrize("variant", ["scaled", "paper"])
def test_the_ends_and_the_temperature_of_ours(variant):
    def loss(s, t, y, beta, T):
        return in_chunks(losses.JS(beta, T, variant), 3)(s, t, y)
    assert checks.broken_sequence_laws(loss, beta="beta", T="T") == {}


def test_the_loss_of_transformers_keeps_the_laws_of_a_shifted_one():
    pytest.importorskip("transformers")
    from transformers.loss.loss_utils import ForCausalLMLoss

    def loss(s, t, y, num_items_in_batch=None):
        return ForCausalLMLoss(s, y, s.shape[-1], num_items_in_batch)
    assert checks.broken_sequence_laws(loss, shift=True, total="num_items_in_batch") == {}
    assert "shift" in checks.broken_sequence_laws(loss, total="num_items_in_batch")


# --- other faults -------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "law"), [
    (lambda s, t, y: 0 * mean(kl(s.detach(), t), y) + 1, "student gradient"),
    (lambda s, t, y: kl(s, t), "one number"),
    (lambda s, t, y: mean(kl(s, t), y * 0), "padding"),
    (lambda s, t, y: (kl(s, t) * (y != -100)).sum(), "length"),
    (lambda s, t, y: (kl(s, t) * (y != -100)).mean(), "padding"),
    (lambda s, t, y: mean(kl(s, t), y) + mean(kl(s, t).detach(), y), "slope"),
    (lambda s, t, y: mean(kl(s, t), y.roll(-1, 1)), "shift"),
])
def test_other_faults(loss, law):
    assert law in checks.broken_sequence_laws(loss)


def test_a_part_without_labels():
    def loss(s, t, y, total):
        assert (y != -100).any(), "nothing to learn from"
        return mean(kl(s, t), y, total)
    found = checks.broken_sequence_laws(loss, total="total")
    assert list(found) == ["empty"] and "nothing to learn from" in found["empty"]


def test_what_was_not_tried_is_said(capsys):
    checks.sequence_loss(lambda s, t, y: mean(kl(s, t), y))
    assert capsys.readouterr().out == (
        "Not tried: accumulation and processes (name the argument: total=…).\n✓ It passes.\n")

    def stub(s, t, y):
        raise NotImplementedError
    checks.sequence_loss(stub)
    assert "Not done yet" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="Expected a value whose slope is its gradient"):
        checks.sequence_loss(bound(fused, {"after": 4.0}))
