"""The head in chunks: value and gradients are those of all logits at once, which are nowhere."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import kdcourse as kd
from kdcourse.losses import CE, JS, KD, TV, Hint, ReverseKL, chunked

DEVICE = kd.default_device()


def sides(shape=(3, 7), D=5, V=11, teacher_D=4, dtype=torch.float64, seed=0, ignored=0.4):
    """Hidden states, weight and bias of both sides, labels of which some are -100."""
    rng = torch.Generator().manual_seed(seed)
    draw = lambda *size: torch.randn(*size, generator=rng, dtype=torch.float64)  # noqa: E731
    student = [draw(*shape, D), draw(V, D), draw(V)]
    teacher = [draw(*shape, teacher_D), 2 * draw(V, teacher_D), draw(V)]
    labels = torch.randint(V, shape, generator=rng)
    labels[torch.rand(shape, generator=rng) < ignored] = -100
    student = [x.to(DEVICE, dtype).requires_grad_() for x in student]
    return student, [x.to(DEVICE, dtype) for x in teacher], labels.to(DEVICE)


def ours(loss, student, teacher, labels, **more):
    return chunked(loss, *student[:2], *teacher[:2], labels, bias=student[2],
                   teacher_bias=teacher[2], **more)


def whole(loss, student, teacher, labels):
    """The same of all logits, by autograd. A row without a label is left out first."""
    kept = labels.flatten() != -100
    z, v = (F.linear(*side).flatten(0, -2)[kept] for side in (student, teacher))
    return loss(z, v, labels.flatten()[kept])


def gradients(loss, student):
    return torch.autograd.grad(loss, student)


def same(one, other, **tolerance):
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


TERMS = {
    "one term": (KD(T=2), KD(T=2)),
    "two terms": (0.1 * CE() + 0.9 * KD(T=4), 0.1 * CE() + 0.9 * KD(T=4)),
    "other divergences": (JS(0.3) + 0.5 * ReverseKL() + TV(), JS(0.3) + 0.5 * ReverseKL() + TV()),
    "reads labels and teacher": (kd.losses.DKD(), kd.losses.DKD()),
    "class weights": (CE(weight=torch.arange(1.0, 12)), CE(weight=torch.arange(1.0, 12))),
    "a function": (lambda s, t, y: (s - t).square().sum(1) + s[:, 0] * y,
                   lambda s, t, y: ((s - t).square().sum(1) + s[:, 0] * y).mean()),
}


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("chunk", [1, 2, 5, 12, 13, 400])
def test_it_equals_the_whole(name, chunk):
    student, teacher, labels = sides()
    loss, reference = (x.to(DEVICE) if isinstance(x, torch.nn.Module) else x for x in TERMS[name])
    found = ours(loss, student, teacher, labels, chunk=chunk)
    expected = whole(reference, student, teacher, labels)
    torch.testing.assert_close(found, expected)
    same(gradients(found, student), gradients(expected, student))


@pytest.mark.parametrize("rows", range(1, 12))
def test_it_equals_the_whole_at_every_length(rows):
    student, teacher, labels = sides((rows,), ignored=0)
    for chunk in (1, 2, 3, 4, 8, rows):
        found = ours(TERMS["two terms"][0], student, teacher, labels, chunk=chunk)
        expected = whole(TERMS["two terms"][1], student, teacher, labels)
        torch.testing.assert_close(found, expected)
        same(gradients(found, student), gradients(expected, student))


def test_it_equals_the_formula_in_loops():
    student, teacher, labels = sides()
    found = ours(0.25 * CE() + 0.75 * KD(T=3), student, teacher, labels, chunk=4)
    z, v = ((x @ W.T + b).detach().cpu().flatten(0, 1).tolist() for x, W, b in (student, teacher))
    terms, T = [], 3.0

    def softmax(row, at):
        powers = [math.exp(x / at) for x in row]
        return [x / sum(powers) for x in powers]

    for a, b, y in zip(z, v, labels.flatten().tolist(), strict=True):
        if y >= 0:
            p, q = softmax(b, T), softmax(a, T)
            terms.append(-0.25 * math.log(softmax(a, 1)[y]) + 0.75 * T**2 * sum(
                i * math.log(i / j) for i, j in zip(p, q, strict=True)))
    assert found.item() == pytest.approx(sum(terms) / len(terms), rel=1e-12)


@pytest.mark.any_device
@pytest.mark.parametrize("chunk", [1, 3, 50])
def test_gradcheck(chunk):
    student, teacher, labels = sides((2, 4), D=3, V=4)

    def loss(*student):
        return ours(0.1 * CE() + 0.9 * KD(T=4), student, teacher, labels, chunk=chunk)

    assert torch.autograd.gradcheck(loss, student)


def test_without_labels_all_rows_count_and_without_a_bias_there_is_none():
    student, teacher, _ = sides(ignored=0)
    found = chunked(KD(T=2), *student[:2], *teacher[:2], chunk=4)
    expected = kd.losses.kd(*((h @ W.T).flatten(0, 1) for h, W, _ in (student, teacher)), T=2)
    torch.testing.assert_close(found, expected)
    same(gradients(found, student[:2]), gradients(expected, student[:2]))


def test_the_teacher_may_be_logits_that_are_there_already():
    student, teacher, labels = sides()
    logits = F.linear(*teacher)
    found = chunked(KD(), *student[:2], logits, None, labels, bias=student[2], chunk=4)
    torch.testing.assert_close(found, ours(KD(), student, teacher, labels))


def test_labels_alone_need_no_teacher():
    student, _, labels = sides()
    found = chunked(CE(), *student[:2], labels=labels, bias=student[2], chunk=4)
    expected = F.cross_entropy(F.linear(*student).flatten(0, 1), labels.flatten())
    torch.testing.assert_close(found, expected)
    same(gradients(found, student), gradients(expected, student))


@pytest.mark.parametrize("shape", [(3, 7), (0, 7)])
def test_where_no_row_counts_it_is_0(shape):
    student, teacher, labels = sides(shape)
    found = ours(CE() + KD(), student, teacher, torch.full_like(labels, -100))
    assert found == 0
    assert not any(x.any() for x in gradients(found, student))


def test_accumulation_and_processes_divide_by_all_rows_that_count():
    student, teacher, labels = sides((6, 7))
    labels[:2] = -100  # parts of different counts, and one of none
    loss, counted = 0.1 * CE() + 0.9 * KD(T=4), int((labels != -100).sum())
    expected = whole(loss, student, teacher, labels)
    slopes = gradients(expected, student)
    for cuts in ([2, 2, 2], [1, 5], [3, 3]):
        for total in (counted, torch.tensor(counted, device=DEVICE)):
            parts = [ours(loss, [h, *student[1:]], [t, *teacher[1:]], y, total=total, chunk=4)
                     for h, t, y in zip(student[0].split(cuts), teacher[0].split(cuts),
                                        labels.split(cuts), strict=True)]
            torch.testing.assert_close(sum(parts), expected)
            same(gradients(sum(parts), student), slopes)


def test_its_value_is_its_slope():
    """The loss may be scaled, added and used twice, and passed through twice."""
    student, teacher, labels = sides()
    one = gradients(ours(KD(), student, teacher, labels), student)
    loss = ours(KD(), student, teacher, labels)
    same(gradients(3 * loss + loss.square(), student), [(3 + 2 * loss.item()) * g for g in one])
    loss = ours(KD(), student, teacher, labels)
    for scale in (1.0, 5.0, 1.0):  # nothing that the first pass gave away is changed by the second
        found = torch.autograd.grad(loss, student, torch.tensor(scale, device=DEVICE,
                                                                dtype=loss.dtype),
                                    retain_graph=True)
        same(found, [scale * g for g in one])
    first = torch.autograd.grad(loss, student, retain_graph=True)
    torch.autograd.grad(2 * loss, student)
    same(first, one)


def test_a_second_derivative_is_refused():
    student, teacher, labels = sides()
    loss = ours(KD(), student, teacher, labels)
    with pytest.raises(RuntimeError, match="Expected a first derivative of a chunked loss"):
        torch.autograd.grad(loss, student, create_graph=True)


@pytest.mark.parametrize("frozen", range(3))
def test_what_is_frozen_gets_no_gradient(frozen):
    student, teacher, labels = sides()
    expected = gradients(ours(KD(), student, teacher, labels), student)
    student[frozen].requires_grad_(False)
    ours(KD(), student, teacher, labels).backward()
    for number, x in enumerate(student):
        if number == frozen:
            assert x.grad is None
        else:
            torch.testing.assert_close(x.grad, expected[number])
    with torch.no_grad():
        assert not ours(KD(), student, teacher, labels).requires_grad


def test_no_gradient_reaches_the_teacher():
    student, teacher, labels = sides()
    teacher = [x.requires_grad_() for x in teacher]
    ours(CE() + KD(), student, teacher, labels).backward()
    assert all(x.grad is None for x in teacher)


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_that_of_the_products_alone(autocast):
    """A student near its teacher: the loss is small, and the softmax in bfloat16 would lose it."""
    student, teacher, labels = sides((64,), D=16, V=50, teacher_D=16, ignored=0)
    teacher = [x.detach() + 0.02 * torch.randn_like(x, device="cpu").to(DEVICE) for x in student]
    if autocast:
        student, teacher = ([x.detach().float() for x in side] for side in (student, teacher))
    else:
        student, teacher = ([x.detach().bfloat16() for x in side] for side in (student, teacher))
    student = [x.requires_grad_() for x in student]

    def logits(side):  # products in bfloat16, as the layer has them
        return F.linear(*(x.bfloat16() for x in side)).double()

    expected = kd.losses.kd(logits(student), logits(teacher), T=1)
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=autocast and DEVICE.type != "pretend"):
        if autocast and DEVICE.type == "pretend":
            pytest.skip("the pretend device has no autocast")
        found = ours(KD(T=1), student, teacher, labels, chunk=4)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=2e-2, atol=0)
    ours_, theirs = gradients(found, student), gradients(expected, student)
    for x, a, b in zip(student, ours_, theirs, strict=True):
        assert a.dtype == x.dtype
        assert (a - b).norm() < 0.02 * b.norm()


def test_a_function_gets_logits_in_float32():
    student, teacher, labels = sides(dtype=torch.bfloat16)
    seen = []

    def loss(s, t, y):
        seen.extend([s.dtype, t.dtype])
        return (s - t).square().sum(1)
    ours(loss, student, teacher, labels)
    assert set(seen) == {torch.float32}


def test_the_weight_s_gradient_is_summed_in_float32():
    """Of 4,096 equal rows, one at a time: a sum in bfloat16 stops at 256."""
    h = torch.ones(4096, 1, dtype=torch.bfloat16, device=DEVICE)
    W = torch.zeros(2, 1, dtype=torch.bfloat16, device=DEVICE, requires_grad=True)
    labels = torch.zeros(4096, dtype=torch.long, device=DEVICE)
    (found,) = torch.autograd.grad(chunked(CE(), h, W, labels=labels, chunk=1), [W])
    torch.testing.assert_close(found.float().cpu(), torch.tensor([[-0.5], [0.5]]), rtol=1e-2,
                               atol=0)


def test_a_small_gradient_survives_float16():
    """The scale of a GradScaler comes after the gradients: they must not round to 0 before."""
    h, W = torch.ones(64, 2, device=DEVICE).half(), torch.zeros(3, 2, device=DEVICE).half()
    h.requires_grad_()
    W.requires_grad_()
    labels = torch.zeros(64, dtype=torch.long, device=DEVICE)
    loss = chunked(CE(), h, W, labels=labels, total=10**6)  # of a very large batch
    scaled = torch.autograd.grad(2.0**16 * loss, [W])[0].float()
    expected = 2.0**16 * 64 / 10**6 * torch.tensor([[-2 / 3] * 2, [1 / 3] * 2, [1 / 3] * 2])
    torch.testing.assert_close(scaled.cpu(), expected, rtol=2e-3, atol=0)


class Largest(TorchDispatchMode):
    """Counts the numbers of the largest tensor that any operation returns, and the operations."""

    def __init__(self):
        super().__init__()
        self.found, self.count = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(x, torch.Tensor):
                self.found, self.count = max(self.found, x.numel()), self.count + 1
        return result


@pytest.mark.any_device
def test_no_tensor_holds_the_logits_of_all_rows():
    M, V, D, chunk = 1024, 8192, 16, 64
    student, teacher, labels = sides((M,), D, V, dtype=torch.float32)
    loss = 0.1 * CE() + 0.9 * KD(T=4)
    counted = int((labels != -100).sum())
    with Largest() as seen:
        ours(loss, student, teacher, labels, chunk=chunk).backward()
    assert seen.count > 100  # the forward and the backward pass were seen
    assert seen.found == chunk * V
    few, _, _ = sides((M,), D, V, dtype=torch.float32)
    with Largest() as seen:
        whole(loss, few, teacher, labels).backward()
    assert seen.found >= counted * V


@pytest.mark.any_device
def test_rows_without_a_label_never_reach_the_projection():
    student, teacher, labels = sides((4, 50), V=300)
    labels[:, 3:] = -100
    with Largest() as seen:
        ours(KD(), student, teacher, labels, chunk=1000).backward()
    assert seen.found <= max(12 * 300, 200 * 5, 300 * 5)
    poisoned = [student[0].detach().clone(), *student[1:]]
    poisoned[0][labels == -100] = math.nan
    torch.testing.assert_close(ours(KD(), poisoned, teacher, labels),
                               ours(KD(), student, teacher, labels))


@pytest.mark.any_device
@pytest.mark.parametrize("count", [None, 37])
def test_it_is_the_loss_of_transformers(count):
    """Next tokens of a tiny random model, with padding: value and all gradients, beside theirs."""
    transformers = pytest.importorskip("transformers")
    from transformers.loss.loss_utils import ForCausalLMLoss

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
            vocab_size=101, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, tie_word_embeddings=True)).eval()
        tokens = torch.randint(101, (3, 10))
    labels = tokens.clone()
    labels[0, 7:], labels[1, :4] = -100, -100  # padding, and a prompt
    more = {} if count is None else {"num_items_in_batch": count}
    theirs = ForCausalLMLoss(model(tokens).logits, labels, 101, **more)
    if count is None:
        torch.testing.assert_close(theirs, model(tokens, labels=labels).loss)
    hidden = model.model(tokens).last_hidden_state
    ours_ = chunked(CE(), hidden[:, :-1], model.lm_head.weight, labels=labels[:, 1:], chunk=4,
                    total=count)
    torch.testing.assert_close(ours_, theirs)
    weights = list(model.parameters())
    same(torch.autograd.grad(ours_, weights), torch.autograd.grad(theirs, weights))


def test_a_compiled_step_has_the_same_loss():
    student, teacher, labels = sides()
    step = torch.compile(lambda: ours(KD(), [2 * x for x in student], teacher, labels) * 2,
                         backend="eager")
    torch.testing.assert_close(step(), 2 * ours(KD(), [2 * x for x in student], teacher, labels))


h, W, b = torch.zeros(2, 3, 5), torch.zeros(7, 5), torch.zeros(7)


@pytest.mark.parametrize(("call", "sentence"), [
    (lambda: chunked(CE(), h, W.T, labels=torch.zeros(2, 3).long()), "a weight .V, D. and a bias"),
    (lambda: chunked(CE(), h, W, bias=b[1:], labels=torch.zeros(2, 3).long()), "that fit, got"),
    (lambda: chunked(CE(), h, None), "Expected the weight of hidden of shape .V, D., got NoneT"),
    (lambda: chunked(CE(), h[0, 0], W), "Expected hidden of shape"),
    (lambda: chunked(CE(), h, W, labels=torch.zeros(2, 4).long()), "Expected labels for each of"),
    (lambda: chunked(KD(), h, W, h[:1], W), "Expected teacher_hidden for each of the rows"),
    (lambda: chunked(KD(), h, W, h, W, chunk=0), "Expected chunk to be a whole number"),
    (lambda: chunked(CE(), h, W), "CE.*Expected labels of shape"),
    (lambda: chunked(KD(), h, W, h, W[1:]), "KD.*logits of one shape"),
    (lambda: chunked(kd.losses.DIST(), h, W, h, W), "one value per row of logits"),
    (lambda: chunked(CE() + Hint("a", "b"), h, W, h, W), "one value per row.*Hint"),
    (lambda: chunked(kd.losses.CTKD(), h, W, h, W), "without trained parts, got CTKD"),
    (lambda: chunked(lambda s, t, y: s.mean(), h, W), "Expected one value per row, .6."),
    (lambda: chunked(CE(weight=torch.ones(7)), h, W, labels=torch.zeros(2, 3).long(), total=9),
     "Expected no total beside class weights"),
])
def test_what_does_not_fit_is_refused_in_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_what_is_no_loss_is_refused():
    with pytest.raises(TypeError, match=r"Expected a loss such as 0\.1"):
        chunked(3, h, W)
