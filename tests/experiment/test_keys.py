"""A key is made from content: what is stored is never taken for something else."""

import copy
import dataclasses
import functools
import importlib
import json
import linecache
import logging
import sys
import textwrap

import nbformat
import pytest
import timm
import torch
import torchvision
import transformers
from conftest import network
from nbclient import NotebookClient
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torchvision.transforms import v2

import kdcourse as kd
from kdcourse._key import key_of, stamp
from kdcourse._tensors import sketch
from kdcourse.losses import CE, KD

records = importlib.import_module("kdcourse.experiment.records")
RECIPE = kd.Recipe(epochs=1, batch=36)


def made(source: str, **names):
    """What a cell with this source defines last."""
    exec(textwrap.dedent(source), names)
    return list(names.values())[-1]


SOFTER = """
    from kdcourse.losses import KD
    scale = {scale}
    def helper(z):
        return z * {inner}
    class Softer(KD):
        share = {share}
        def values(self, student, teacher=None, labels=None):
            return scale * super().values(helper(student), teacher, labels) + {outer}
"""
PLAIN = {"scale": 1, "inner": 2, "share": 3, "outer": 4}


@pytest.mark.parametrize("change", [
    {"outer": 5}, {"inner": 5}, {"scale": 5}, {"share": 5}], ids=lambda change: next(iter(change)))
def test_the_source_of_a_class_and_all_that_it_reads_count(change):
    """Its own lines, a function that it calls, a global number, an attribute of the class."""
    one, same, other = (made(SOFTER.format(**settings)) for settings in (
        PLAIN, PLAIN, PLAIN | change))
    assert key_of(one(T=4)) == key_of(same(T=4)) != key_of(other(T=4))
    assert key_of(one(T=4)) != key_of(one(T=2))
    assert key_of(one) != key_of(other)


def test_a_lambda_is_its_expression_wherever_it_stands():
    one = [lambda x: x + 1, lambda x: x + 2]
    two = {"a": (
        lambda x: x +
        1)}
    assert key_of(one[0]).exact == key_of(two["a"]).exact != key_of(one[1]).exact
    (other, _) = lambda y: y + 1, None
    assert key_of(other).exact != key_of(one[0]).exact


def test_comments_and_blank_lines_do_not_count(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name, comment in (("first", ""), ("second", "    # a comment\n\n")):
        (tmp_path / f"cell_{name}.py").write_text(f"def f(x):\n{comment}    return x\n")
    first, second = (importlib.import_module(f"cell_{name}").f for name in ("first", "second"))
    assert key_of(first) == key_of(second)


class Scaled(nn.Module):
    """A network that normalises by a plain attribute."""

    def __init__(self, mean=0.5):
        super().__init__()
        self.mean = mean
        self._hidden = [1, 2]
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x - self.mean)


def test_a_network_is_its_class_its_attributes_and_its_weights():
    plain = key_of(Scaled())
    assert key_of(Scaled()) == plain
    assert key_of(Scaled(mean=0.4)).exact != plain.exact
    other = Scaled()
    other._hidden = [1, 3]
    assert key_of(other).exact != plain.exact
    other = Scaled()
    other.layer.bias.data[0] += 1e-6
    assert key_of(other).exact == plain.exact and key_of(other).bits != plain.bits
    assert key_of(copy.deepcopy(Scaled())) == plain
    model = Scaled()
    assert key_of(model, without=model.parameters()).bits == "" != plain.bits


def test_our_networks_are_how_they_were_made_until_somebody_changes_them():
    assert key_of(network(0)).bits == ""
    assert key_of(network(0)) == key_of(network(0)) != key_of(network(1))
    changed = network(0)
    next(changed.parameters()).data[0] += 1
    assert key_of(changed).bits
    replaced = network(0)
    replaced[2] = nn.Tanh()  # the same weights
    assert key_of(replaced) != key_of(network(0))
    other = kd.models.resnet(depth=8, width=4)
    other.layer1[0].relu = nn.Tanh()
    assert key_of(other) != key_of(kd.models.resnet(depth=8, width=4))
    other = network(0)
    other[0].mean = 0.4
    assert key_of(other) != key_of(network(0))
    stamp(changed, "repaired")
    assert key_of(changed).bits == "" and key_of(changed) != key_of(network(0))


def test_a_trained_student_is_how_it_was_trained(data):
    def trained(seed, recipe=RECIPE, objective=None, start=0):
        scheme = kd.Supervised(network(start), objective)
        kd.fit(scheme, data, recipe, seed)
        return key_of(scheme.student)

    first = trained(0)
    assert first.bits == "" and first == trained(0)
    others = [trained(1), trained(0, kd.Recipe(epochs=2, batch=36)), trained(0, start=1),
              trained(0, objective=CE() + CE()), key_of(network(0))]
    assert len({key.exact for key in [first, *others]}) == 6


def test_a_stopped_training_says_nothing_of_its_student(data):
    class Stops(kd.Supervised):
        def after_step(self):
            raise KeyboardInterrupt

    scheme = Stops(network(0))
    kd.fit(scheme, data, RECIPE)
    assert key_of(scheme.student).bits


def test_samples_count_also_under_the_same_params(data):
    plain = key_of(data)
    assert plain.bits == "", "what the package drew is told by its params"
    train = kd.data.Split(data.train.x.flip(0), data.train.y)
    other = kd.data.Dataset(train, data.val, data.test, data.classes, data.params)
    assert key_of(other) != plain
    labels = kd.data.Split(data.train.x, data.train.y.roll(1))
    swapped = kd.data.Dataset(labels, data.val, data.test, data.classes, data.params)
    assert key_of(swapped).exact != key_of(other).exact
    again = kd.data.glyphs(**{k: v for k, v in data.params.items() if k != "name"})
    assert key_of(again) == plain
    again.val.x[0, 0, 0, 0] += 1
    assert key_of(again) != plain


def test_a_split_of_ones_own_counts_under_the_same_params(data):
    class Noisy(kd.data.Split):
        def batches(self, size, seed=None, epoch=0):
            for batch in super().batches(size, seed, epoch):
                yield dataclasses.replace(batch, x=batch.x + 1)

    noisy = dataclasses.replace(data, train=Noisy(data.train.x, data.train.y))
    assert key_of(noisy).exact != key_of(data).exact
    one, other = (kd.augmented(data, shift=0.1, seed=seed) for seed in (0, 1))
    assert key_of(one) == key_of(kd.augmented(data, shift=0.1)) != key_of(other)
    swapped = dataclasses.replace(one, train=other.train)
    assert key_of(swapped) != key_of(one), "the params say another seed than the split has"


@pytest.mark.parametrize("change", [
    lambda: v2.Compose([v2.Resize(8), v2.Normalize([0.5], [0.2])]),
    lambda: v2.Compose([v2.Resize(9), v2.Normalize([0.5], [0.1])]),
    lambda: v2.Compose([v2.Resize(9)]), lambda: nn.Sequential(v2.Resize(9)),
    lambda: functools.partial(torch.clamp, min=0.1), lambda: functools.partial(torch.clamp, min=0),
    lambda: get_ema_multi_avg_fn(0.9), lambda: get_ema_multi_avg_fn(0.8)], ids=range(8))
def test_what_a_librarys_object_holds_counts(change):
    first = key_of(v2.Compose([v2.Resize(9), v2.Normalize([0.5], [0.2])]))
    assert key_of(change()) == key_of(change()) != first
    assert len({key_of(get_ema_multi_avg_fn(decay)).exact for decay in (0.9, 0.8)}) == 2


@pytest.mark.parametrize("make", [
    lambda: timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32),
    lambda: torchvision.models.resnet18(num_classes=3),
    lambda: transformers.BertModel(transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8))], ids=["timm", "torchvision", "transformers"])
def test_the_key_of_a_librarys_network_is_stable(make):
    def network():
        torch.manual_seed(0)
        return make()

    first = network()
    assert key_of(first, strict=True) == key_of(network()) == key_of(copy.deepcopy(first))
    with torch.no_grad():
        next(first.parameters()).add_(1)
    assert key_of(first).bits != key_of(network()).bits


def test_a_module_of_ones_own_and_a_cached_function_are_read(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    keys = []
    for line in ("x + 1", "x + 1", "x + 2"):
        (tmp_path / "helpers_of_mine.py").write_text(f"def f(x):\n    return {line}\n")
        sys.modules.pop("helpers_of_mine", None)
        mine = importlib.import_module("helpers_of_mine")
        keys.append((key_of(lambda x, mine=mine: mine.f(x)).exact,
                     key_of(functools.cache(mine.f)).exact))
        linecache.clearcache()
    assert keys[0] == keys[1]
    assert keys[0][0] != keys[2][0] and keys[0][1] != keys[2][1]


def test_the_files_of_this_package_do_not_count(tmp_path, monkeypatch):
    """In a checkout and installed, before and after an edit of a file, a key is the same."""
    arm = made("def arm(seed):\n    return kd.Supervised(kd.models.mlp(seed=seed))", kd=kd)
    before = key_of([arm, kd, kd.measure])
    for module in (kd, kd.measure):
        edited = tmp_path / f"{module.__name__}.py"
        edited.write_text("# another line\n")
        monkeypatch.setattr(module, "__file__", str(edited))
    assert key_of([arm, kd, kd.measure]) == before


@pytest.mark.parametrize(("one", "other"), [
    ("def f(a, b):\n    return lambda: (a, b)\ng = f(None, 5)",
     "def f(a, b):\n    return lambda: (a, b)\ng = f(5, None)"),
    ("def f():\n    return lambda y: y * 2", "def f():\n    return lambda y: y * 3"),
    ("def f():\n    return [x for x in (1, 2)]", "def f():\n    return [x for x in (1, 3)]")])
def test_functions_without_source_and_what_they_enclose(one, other):
    assert key_of(made(one)) == key_of(made(one)) != key_of(made(other))


DATACLASS = """
    import dataclasses
    @dataclasses.dataclass({arguments})
    class Views:
        strong: bool = {default}
        mix: {annotation} = dataclasses.field(default_factory={factory})
        def share(self):
            return {number}
"""
FROZEN = {"arguments": "frozen=True, order=True", "default": False, "annotation": "list",
          "factory": "list", "number": 1}


def test_the_methods_that_a_dataclass_gets_are_its_fields(monkeypatch):
    """Every version of Python writes others, and rows must be found under all of them."""
    def refuse(code):
        raise AssertionError(f"bytecode of {code.co_qualname} in a key")

    monkeypatch.setattr("kdcourse._key._bytecode", refuse)
    monkeypatch.setattr("kdcourse._key._source", lambda function: (
        refuse(function.__code__) if "__create_fn__" in function.__code__.co_qualname
        else list(function.__code__.co_consts)))
    first = key_of(made(DATACLASS.format(**FROZEN)))
    for change, same in (({}, True), ({"annotation": "tuple"}, True), ({"default": True}, False),
                         ({"arguments": "order=True"}, False), ({"factory": "dict"}, False),
                         ({"factory": "list, compare=False"}, False), ({"number": 2}, False)):
        other = made(DATACLASS.format(**FROZEN | change))
        assert (key_of(other) == first) is same, change
    slots = FROZEN | {"arguments": "slots=True"}  # no default is an attribute of the class then
    one, other = (key_of(made(DATACLASS.format(**slots | {"default": default})))
                  for default in (False, True))
    assert one != other


def test_a_cached_property_has_the_key_of_python_3_11():
    class Later:
        @functools.cached_property
        def stored(self):
            return 1

    first = key_of(Later)
    kept = vars(Later)["stored"]
    if "lock" in vars(kept):
        del kept.lock  # as since Python 3.12
    assert key_of(Later) == first


def test_lines_of_a_string_count_also_where_they_look_like_comments(tmp_path, monkeypatch):
    def of(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        function = importlib.import_module(name).f
        function.__module__ = function.__qualname__ = "f"
        return key_of(function)

    keys = [of(f"prompt{number}", f'def f():{comment}\n    return """\n# {text}\n"""\n')
            for number, (comment, text) in enumerate([
                ("", "one"), ("", "two"), ("\n    # why\n", "one")])]
    assert keys[0] == keys[2] != keys[1]


def test_loggers_do_not_count():
    source = "def arm(seed):\n    logger.info(seed)\n    return seed"
    arm = made(source, logger=logging.getLogger("kdcourse.tests.one"))
    before = key_of(arm)
    logging.getLogger("kdcourse.tests.other").addHandler(logging.NullHandler())
    assert key_of(arm) == before


def test_a_method_replaced_on_one_scheme_counts():
    plain, patched = kd.Supervised(network(0)), kd.Supervised(network(0))
    patched.after_step = lambda: None
    assert key_of(patched) != key_of(plain)
    assert key_of(patched, strict=False) == key_of(plain, strict=False)


def test_answers_given_by_hand_count(data):
    logits = torch.randn(len(data.train), 36, generator=torch.Generator().manual_seed(0))
    one, same, other = (key_of(kd.Cached.of(z, data, "mine"), sketched=True) for z in (
        logits, logits.clone(), logits * 1.01))
    assert one == same and one.exact == other.exact and one.bits != other.bits
    assert one.close(other.sketch), "one percent is less than two machines differ"
    assert not one.close(key_of(kd.Cached.of(logits.roll(1, 1), data, "mine"),
                                sketched=True).sketch)


def test_the_distance_of_sketches_is_that_of_the_tensors():
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(500, 36, generator=rng)
    for share in (0.05, 0.2, 0.5, 1.0):
        y = x + share * torch.randn(x.shape, generator=rng)
        found = [a - b for a, b in zip(sketch(x)[:-1], sketch(y)[:-1])]
        assert len(found) == 32
        near = key_of({"x": x}, sketched=True).close(key_of({"x": y}, sketched=True).sketch)
        assert near == (share < 0.3)


@pytest.mark.parametrize("thing", [
    1, True, "a", 2.5, float("inf"), None, (1, 2), [1, [2]], {"a": {2: 3}}, {1, 2}, b"x",
    torch.float32, torch.device("cpu"), slice(1, 2), len, functools.partial(max, 1),
    torch.arange(3), torch.Generator().manual_seed(1), nn.ReLU(), CE() + 2 * KD(T=3), RECIPE,
    json, ...,
], ids=lambda thing: type(thing).__name__)
def test_a_thing_has_one_key(thing):
    assert key_of(thing) == key_of(thing)
    assert key_of(thing) != key_of([thing])


def test_things_that_differ_have_different_keys():
    things = [1, 2, True, "1", 1.0, [1], (1, 2), {"a": 1}, {"a": 2}, torch.arange(2),
              torch.arange(2).int(), torch.arange(2)[None], functools.partial(max, 1),
              functools.partial(min, 1), nn.ReLU(), nn.LeakyReLU(0.1), nn.LeakyReLU(0.2), CE(),
              KD(), KD(T=2), KD() + CE(), CE() + KD(), 2 * CE() + KD(), kd.Recipe(),
              kd.Recipe(lr=1.0), kd.Recipe(optimizer=torch.optim.SGD),
              kd.Recipe(optimizer=torch.optim.AdamW)]
    keys = [key_of(thing).exact for thing in things]
    assert len(set(keys)) == len(keys)


def test_private_attributes_of_a_subclass_count_and_an_identity_is_trusted():
    class Hidden(KD):
        def __init__(self, scale):
            super().__init__()
            self._scale = scale

    assert key_of(Hidden(1)) == key_of(Hidden(1)) != key_of(Hidden(2))

    class Keeps(KD):
        def __init__(self):
            super().__init__()
            self.memory = {}

        def identity(self):
            return super().identity()

    used = Keeps()
    used.memory["a"] = torch.ones(3)
    assert key_of(used) == key_of(Keeps())


def test_what_cannot_be_read_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"content can be read, .*range_iterator.* in a\.0\. Give"):
        key_of({"a": [iter(range(3))]})
    assert key_of({"a": [iter(range(3))]}, strict=False)


def test_an_object_of_ours_without_identity_is_refused(monkeypatch):
    """Its private attributes are no part of a key: two such objects could not be told apart."""
    class Forgets:
        def __init__(self, one):
            self._one = one

    monkeypatch.setattr(Forgets, "__module__", "kdcourse.somewhere")
    with pytest.raises(ValueError, match="method identity"):
        key_of(Forgets(1))


# --- in a notebook --------------------------------------------------------------------------------


def run(cells, folder):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=300, kernel_name="python3",
                   resources={"metadata": {"path": str(folder)}}).execute()
    return ["".join(output.get("text", "") for output in cell.outputs
                    if output.get("name") == "stdout") for cell in notebook.cells]


def test_an_edited_class_in_a_notebook_is_computed_not_loaded(home, tmp_path, monkeypatch):
    """The lesson's broken loss is repaired in its cell, and the record must not answer for it."""
    monkeypatch.setenv("TQDM_DISABLE", "1")
    start = """
import torch.nn.functional as F
import kdcourse as kd
data = kd.data.glyphs(train=144, val=72, test=72, size=12)
net = lambda seed: kd.models.convnet(width=4, size=12, seed=seed)
cached = kd.Cached(kd.models.convnet(width=8, size=12, seed=9), data)"""
    broken = """
class MeanKD(kd.losses.KD):
    def values(self, student, teacher=None, labels=None):
        log_q = F.log_softmax(student / self.T, 1)
        return self.T**2 * F.kl_div(log_q, F.softmax(teacher / self.T, 1), reduction="mean")"""
    repaired = broken.replace('reduction="mean"', 'reduction="batchmean"')
    measure = """
made = kd.compare({"KD": lambda seed: kd.Distiller(net(seed), cached, 4 * MeanKD(T=4))}, data,
                  kd.Recipe(epochs=2, batch=36, lr=0.1), seeds=[0], results="t")
print(made.rows[0]["curve"][-1][1])"""
    said = run([start, broken, measure, measure, repaired, measure, broken, measure], tmp_path)
    first, again, after, back = (said[i].split() for i in (2, 3, 5, 7))
    assert " ".join(first[:-1]) == "1 runs: 0 loaded, 1 computed."
    assert " ".join(again[:-1]) == "1 runs: 1 loaded, 0 computed." and again[-1] == first[-1]
    assert " ".join(after[:-1]) == "1 runs: 0 loaded, 1 computed." and after[-1] != first[-1]
    assert back == again
    assert len(json.loads((home / "results" / "t.json").read_text())["rows"]) == 2
