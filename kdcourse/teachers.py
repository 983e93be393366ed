"""WHO says it: sources of targets.

A teacher answers `teacher(batch)` with a `View`. It is not a module and not a part of the scheme's
modules, so it is never trained, never saved with the student and never woken by `train()`.
Shapes: B batch, K classes, N samples.
"""

import json
import operator
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from kdcourse import _files, models
from kdcourse.data import Batch, Dataset
from kdcourse.models import View
from kdcourse.views import Views


class Live:
    """A network that answers every batch anew.

    The network is frozen where it stands: eval mode (dropout off, batch statistics fixed), no
    gradients, no gradient to any of its parameters.

    mean, std: the teacher's own normalisation, a number or one per channel: it is shown
        (x - mean) / std. By default it takes inputs in [0, 1], as the course's networks do, which
        normalise for themselves.
    size: the height and width that it wants, when they are not the student's: a number or a pair.

    A grey image is repeated for a teacher with three channels: for one whose first convolution
    takes three, unless the network repeats it itself. All of it happens on the device.

    Raises `TypeError` for what is no network, and `ValueError` for a std or a size that cannot be.

    >>> teacher = Live(models.convnet(width=8))
    >>> any(p.requires_grad for p in teacher.model.parameters())
    False
    """

    def __init__(self, model: nn.Module, mean=None, std=None, size=None):
        if not isinstance(model, nn.Module):
            raise TypeError(f"Expected a network (nn.Module) as teacher, got "
                            f"{type(model).__name__}. Pass the model itself, not its name.")
        self.model = model.eval().requires_grad_(False)
        self.mean, self.std, self.size = _channels(mean), _channels(std), _size(size)
        if self.std is not None and not (self.std > 0).all():
            raise ValueError(f"Expected std above 0, got {std}.")
        self._taps = {(): models.taps(model, ())}
        first, channels = _first_layer(model)
        self._first = first if channels == 3 else None
        self._repeats = None if channels == 3 else False  # None: the first grey image will tell

    @torch.no_grad()
    def __call__(self, batch: Batch, taps: tuple[str, ...] = ()) -> View:
        """The teacher's view of the batch: logits [B, K], and the tensors at the paths `taps`."""
        self.model.eval()  # somebody else may have the model too, and train() all or part of it
        self.tap(taps)
        view = self._taps[taps](self.adapted(batch.x))
        view.index = batch.index
        return view

    def adapted(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs [B, C, H, W] in [0, 1], as this teacher wants to see them."""
        if self.size is not None and tuple(x.shape[2:]) != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", align_corners=False, antialias=True)
        for wanted, change in ((self.mean, torch.sub), (self.std, torch.div)):
            if wanted is not None:
                x = change(x, wanted.to(x)[:, None, None])
        return x.expand(-1, 3, -1, -1) if self._repeated(x) else x

    def _repeated(self, x: torch.Tensor) -> bool:
        """Whether this is a grey image for a network that wants three channels."""
        if self._repeats is False or x.ndim != 4 or x.shape[1] != 1:
            return False
        if self._repeats is None:
            self._repeats = _fails_on_grey(self.model, self._first, x[:1])
        return self._repeats

    def tap(self, taps: tuple[str, ...]) -> None:
        """Raise `ValueError` unless the network has modules at these paths."""
        if taps not in self._taps:
            self._taps[taps] = models.taps(self.model, taps)

    @torch.no_grad()
    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, K] for any inputs [N, C, H, W], on the device of the inputs."""
        adapters = (self.mean, self.std, self.size)
        if all(value is None for value in adapters) and not self._repeated(x):
            return models.predict(self.model, x)
        device = models.device_of(self.model)
        return torch.cat([models.predict(self.model, self.adapted(part.to(device))).to(x.device)
                          for part in x.split(500)])

    def to(self, device) -> "Live":
        """Move the network."""
        self.model.to(device)
        return self

    def check(self, data: Dataset) -> None:
        """A live teacher answers for any data."""

    def __deepcopy__(self, memo):
        return self  # frozen, so copies of a scheme share it

    def __repr__(self):
        digest = fingerprint(self.model)
        if getattr(self.model, "made", None) == digest:  # as kd.teacher made it: its name says all
            name = self.model.spec
        else:
            name = f"{models.describe(self.model)}#{digest[:8]}"  # one structure, other weights
        adapter = [f"{what}={value.tolist() if isinstance(value, torch.Tensor) else value}"
                   for what, value in (("mean", self.mean), ("std", self.std), ("size", self.size))
                   if value is not None]
        return f"Live({', '.join([name, *adapter])})" if adapter else name


class Cached:
    """The teacher's answers to the training samples, computed once and kept by sample and view.

    Several times faster than `Live`: the teacher runs once instead of once per epoch, and the
    training is the same to rounding. With augmentation the data must have a stated number of views
    (`kd.augmented(data, views=8)`): each has answers of its own. Refuses other data than it was
    made for, also where they were changed in place. An ensemble with weights of "confidence"
    is asked with the labels of the training samples, as in training.

    teacher: a network, or any teacher, such as `Live(network, mean=…)` or an `Ensemble`.
    path: a file, such as "answers.safetensors", that keeps them: loaded where it is there, written
        otherwise. It carries a checksum and says of which teacher, data and views it is; one of
        others is refused.

    >>> from kdcourse.data import glyphs
    >>> data = glyphs(train=64, val=36, test=36)
    >>> Cached(models.convnet(width=8), data).logits.shape
    torch.Size([64, 36])
    """

    def __init__(self, teacher, data: Dataset, path=None):
        self.source = as_teacher(teacher)
        self.params, self._name = data.params, repr(self.source)
        self._inputs, self._labels = _Kept(data.train.x), None
        if _needs_labels(self.source):
            self._labels = _Kept(data.train.y)
        if path is None:
            self._stored = self._answers(data)
            return
        path = Path(path)
        settings = {"teacher": self._name, "data": repr(data), "inputs": self._inputs.digest}
        if self._labels:
            settings["labels"] = self._labels.digest
        if path.exists():
            self._stored = _load(path, settings)
            return
        self._stored = self._answers(data)
        digest = _files.digest(self._stored.numpy().tobytes())
        with _files.warn_if_not_kept("The teacher's answers were computed but not kept."):
            _files.write(path, safetensors.torch.save(
                {"logits": self._stored}, {"kdcourse": json.dumps(settings | {"sha256": digest})}))

    def _answers(self, data: Dataset) -> torch.Tensor:
        """[views, N, K]: of the plain samples, or of every view."""
        train = data.train
        if not isinstance(train, Views):
            return _predict(self.source, train.x, train.y).cpu()[None]
        if train.views is None:
            raise ValueError("Expected data with a stated number of views to store answers for, "
                             "got ever new ones. Use kd.augmented(data, views=…), or "
                             "Live(teacher).")
        places = torch.arange(len(train), device=train.x.device).split(500)
        return torch.stack([
            torch.cat([_predict(self.source, train.seen(index, view), train.y[index]).cpu()
                       for index in places])
            for view in range(1, train.views + 1)])

    @classmethod
    def of(cls, logits: torch.Tensor, data: Dataset, name: str) -> "Cached":
        """Answers that come from elsewhere: logits [N, K], one row per training sample.

        name: what they are; recorded results are found by it, so other answers need another name.
        Raises `ValueError` when there are not as many rows as training samples.
        """
        expected = [len(data.train), len(data.classes)]
        if list(logits.shape) != expected:
            raise ValueError(f"Expected logits of shape {expected}, one row per training sample, "
                             f"got {list(logits.shape)}.")
        self = cls.__new__(cls)
        self.source, self._stored, self.params, self._name = None, logits[None], data.params, name
        self._inputs, self._labels = _Kept(data.train.x), None
        return self

    @property
    def logits(self) -> torch.Tensor:
        """The stored answers, on the CPU: [N, K], or with augmentation [views, N, K]."""
        stored = self._stored.cpu()  # a training moves them
        return stored if "views" in self.params else stored[0]

    def tap(self, taps: tuple[str, ...]) -> None:
        """Raise `ValueError` when inner tensors are asked for: only logits are stored."""
        if taps:
            raise ValueError(f"Expected a teacher with its layers for the taps {list(taps)}, got "
                             "stored logits. Use the network itself, or Live(network).")

    def __call__(self, batch: Batch, taps: tuple[str, ...] = ()) -> View:
        """The stored logits [B, K] of the batch's samples, in the batch's view."""
        self.tap(taps)
        plain = "views" not in self.params
        if plain != (batch.view == 0) or batch.view > len(self._stored):
            stored = "view 0" if plain else f"views 1 to {len(self._stored)}"
            raise ValueError(
                f"Expected a batch in {stored}, for which there are answers, got view "
                f"{batch.view}. Make Cached(teacher, data) for the data that you train on, or use "
                "Live(teacher)."
            )
        logits = self._stored[max(batch.view - 1, 0)]
        return View(logits.index_select(0, batch.index.to(logits.device)), index=batch.index)

    def predict(self, x: torch.Tensor, labels=None) -> torch.Tensor | None:
        """Logits for any inputs, from the teacher behind the cache; None if there is none."""
        return _predict(self.source, x, labels) if self.source else None

    def to(self, device) -> "Cached":
        """Move the stored answers."""
        self._stored = self._stored.to(device)
        return self

    def check(self, data: Dataset) -> None:
        """Raise `ValueError` unless `data` is what the answers were made for."""
        if data.params != self.params:
            raise ValueError(
                f"Expected the data that was cached, {self.params}, got {data.params}. "
                "Make Cached(teacher, data) again for this data."
            )
        if not self._inputs.same(data.train.x):
            raise ValueError(
                "Expected the training samples that were cached, in the same order, got others: "
                "the answers would belong to other images. Make Cached(teacher, data) again."
            )
        if self._labels and not self._labels.same(data.train.y):
            raise ValueError(
                "Expected the labels that were cached, got others: the teachers were weighted by "
                "their confidence in those. Make Cached(teacher, data) again."
            )

    def __deepcopy__(self, memo):
        return self

    def __repr__(self):
        return f"Cached({self._name})"


class Ensemble:
    """Several teachers that answer as one.

    Their logits are averaged: at any temperature that is the (normalised) geometric mean of their
    softened answers, one of the two means in Hinton, Vinyals & Dean 2015, section 2
    (arXiv:1503.02531).

    teachers: networks or teachers; each keeps its own normalisation and size.
    weights: "mean"; or one number per teacher, at least 0; or "confidence": for each sample the
        teachers weighted by the softmax of their log-probability of the label, so that those who
        know this image speak louder (in the spirit of Zhang et al. 2022, "Confidence-Aware
        Multi-Teacher Knowledge Distillation", arXiv:2201.00007; their weights are another function
        of the same cross-entropy). Where all of them give the label no mass, and without labels
        (in `predict`), the plain mean.

    Raises `ValueError` for no teachers, and weights that do not fit.

    >>> Ensemble([models.convnet(width=8, seed=s) for s in range(3)]).predict(
    ...     torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 36])
    """

    def __init__(self, teachers, weights="mean"):
        self.teachers = [as_teacher(teacher) for teacher in teachers]
        if not self.teachers:
            raise ValueError("Expected at least one teacher, got none.")
        self.weights = weights
        if not isinstance(weights, str):
            shares = torch.tensor([float(weight) for weight in weights])
            if (len(shares) != len(self.teachers) or (shares < 0).any()
                    or not 0 < shares.sum() < torch.inf):
                raise ValueError(f"Expected {len(self.teachers)} weights of at least 0, finite "
                                 f"and not all 0, one per teacher, got {list(weights)}.")
            self._shares = shares / shares.sum()
        elif weights not in ("mean", "confidence"):
            raise ValueError('Expected weights "mean", "confidence" or one number per teacher, got '
                             f"{weights!r}.")

    def __call__(self, batch: Batch, taps: tuple[str, ...] = ()) -> View:
        """The ensemble's logits [B, K]."""
        self.tap(taps)
        return View(self._together([teacher(batch).logits for teacher in self.teachers], batch.y),
                    index=batch.index)

    def _together(self, answers, labels=None) -> torch.Tensor:
        if len({answer.shape for answer in answers}) > 1:
            raise ValueError("Expected teachers that know the same classes, got logits of shapes "
                             f"{[list(answer.shape) for answer in answers]}.")
        logits_MBK = torch.stack([answer.float() for answer in answers])
        if self.weights == "confidence" and labels is not None:
            log_p, labels = logits_MBK.log_softmax(-1), labels.to(logits_MBK.device)
            if labels.ndim == 1:
                labels = F.one_hot(labels, log_p.shape[-1])
            # Logits may be -inf (masked classes), and 0 * -inf is not a number.
            known_MB = log_p.mul(labels).masked_fill(labels == 0, 0).sum(-1)
            nobody_B = known_MB.isneginf().all(0)
            shares_MB1 = known_MB.masked_fill(nobody_B, 0).softmax(0)[..., None]
            return (shares_MB1 * logits_MBK).masked_fill(shares_MB1 == 0, 0).sum(0)
        if isinstance(self.weights, str):
            return logits_MBK.mean(0)
        shares_M = self._shares.to(logits_MBK)
        heard_MBK = logits_MBK.masked_fill(shares_M[:, None, None] == 0, 0)  # as above
        return torch.einsum("m,mbk->bk", shares_M, heard_MBK)

    def tap(self, taps: tuple[str, ...]) -> None:
        """Raise `ValueError` when inner tensors are asked for: there is no one network."""
        if taps:
            raise ValueError(f"Expected one teacher for the taps {list(taps)}, got an ensemble. "
                             "Distil its logits, or take the layers of one network.")

    def predict(self, x: torch.Tensor, labels=None) -> torch.Tensor | None:
        """Logits [N, K] for any inputs; None where some teacher has no network behind it.

        labels: [N], or [N, K] when soft, where they are known: then as in training.
        """
        answers = [_predict(teacher, x, labels) for teacher in self.teachers]
        if any(answer is None for answer in answers):
            return None
        return self._together(answers, labels)

    def to(self, device) -> "Ensemble":
        """Move every teacher."""
        for teacher in self.teachers:
            teacher.to(device)
        return self

    def check(self, data: Dataset) -> None:
        """`check` of every teacher."""
        for teacher in self.teachers:
            teacher.check(data)

    def __deepcopy__(self, memo):
        return self

    def __repr__(self):
        weights = "" if self.weights == "mean" else f", weights={self.weights!r}"
        return f"Ensemble({self.teachers!r}{weights})"


def as_teacher(teacher):
    """A network becomes `Live(network)`; a teacher stays what it is.

    Raises `TypeError` for what is neither, and for a teacher that lacks a call which `fit` makes.
    """
    if isinstance(teacher, nn.Module):
        return Live(teacher)
    calls = {"predict": "predict(x)", "check": "check(data)", "to": "to(device)"}
    missing = [call for name, call in calls.items() if not hasattr(teacher, name)]
    if callable(teacher) and not missing:
        return teacher
    if callable(teacher) and len(missing) < len(calls):  # meant as one
        raise TypeError(f"Expected a network or a teacher such as Live(network), got "
                        f"{type(teacher).__name__} without {' and '.join(missing)}. Add it; where "
                        "there is nothing to move, to(device) returns self.")
    raise TypeError(f"Expected a network or a teacher such as Live(network), got "
                    f"{type(teacher).__name__}. Pass the model itself.")


def fingerprint(model: nn.Module) -> str:
    """A digest of all that the model's `state_dict` holds: weights, buffers, extra states."""
    return _files.digest(*(_bytes(value) if isinstance(value, torch.Tensor) else
                           repr(value).encode() for value in model.state_dict().values()))


def networks(teacher) -> list[nn.Module]:
    """The networks that a teacher asks in every step: one, those of an ensemble, or none."""
    if isinstance(teacher, nn.Module):
        return [teacher]
    members = [getattr(teacher, "model", None), *getattr(teacher, "teachers", [])]
    return [network for member in members if member is not None for network in networks(member)]


def _channels(value) -> torch.Tensor | None:
    return None if value is None else torch.as_tensor(value, dtype=torch.float32).reshape(-1)


def _size(value) -> tuple[int, int] | None:
    if value is None:
        return None
    try:
        pair = value if isinstance(value, (tuple, list)) else (value, value)
        height, width = map(operator.index, pair)
        if min(height, width) >= 1:
            return height, width
    except (TypeError, ValueError):
        pass  # not whole numbers, or not two of them
    raise ValueError(f"Expected a size of one or two whole numbers of at least 1, such as 224 or "
                     f"(224, 192), got {value!r}.")


def _first_layer(model: nn.Module) -> tuple[nn.Module | None, int]:
    """The first module with a weight of four axes, and the input channels of that weight."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module, module.in_channels
        for weight in module.parameters(recurse=False):
            if not nn.parameter.is_lazy(weight) and weight.ndim == 4:
                return module, weight.shape[1]
    return None, 0


class _Reached(Exception):
    """Carries the shape of what goes into a layer out of a model."""


def _fails_on_grey(model: nn.Module, first: nn.Module, x: torch.Tensor) -> bool:
    """Whether a grey image comes to the layer `first`, which takes three channels, as it is.

    A network that repeats the image itself must not be shown three channels. Runs no further than
    to that layer.
    """

    def stop(module, args, kwargs):
        raise _Reached((*args, *kwargs.values())[0].shape)

    handle = first.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with models.evaluating(model), torch.no_grad():
            models.unwrapped(model)(x.to(models.device_of(model)))
    except _Reached as reached:
        return reached.args[0][1] == 1
    except Exception:  # whatever it is that does not like one channel
        return True
    finally:
        handle.remove()
    return False


class _Kept:
    """Which tensor something was made for: it, as long as nobody writes to it, or an equal one."""

    def __init__(self, tensor: torch.Tensor):
        self.tensor, self.version = tensor, models._version(tensor)
        self.shape, self.digest = tensor.shape, _files.digest(_bytes(tensor))

    def same(self, tensor: torch.Tensor) -> bool:
        # The version says at no cost that nothing was written; a digest takes a while.
        if (tensor is self.tensor and self.version is not None
                and models._version(tensor) == self.version):
            return True
        return tensor.shape == self.shape and _files.digest(_bytes(tensor)) == self.digest


def _bytes(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes()  # NumPy does not have every type


def _needs_labels(teacher) -> bool:
    """Whether the teacher's answers to the training samples depend on their labels."""
    if isinstance(teacher, Cached):
        return _needs_labels(teacher.source)
    return isinstance(teacher, Ensemble) and (
        teacher.weights == "confidence" or any(map(_needs_labels, teacher.teachers)))


def _predict(teacher, x: torch.Tensor, labels) -> torch.Tensor | None:
    """`teacher.predict(x)`, with the labels where the teacher weighs others by them."""
    return teacher.predict(x, labels) if _needs_labels(teacher) else teacher.predict(x)


def _load(path: Path, settings: dict) -> torch.Tensor:
    """Stored answers, when they are whole and were made for these settings."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            found = json.loads((file.metadata() or {})["kdcourse"])
            logits = file.get_tensor("logits")
        whole = found.pop("sha256") == _files.digest(logits.numpy().tobytes())
    except (safetensors.SafetensorError, KeyError, ValueError, OSError):
        whole = False
    if not whole:
        raise ValueError(f"Expected stored answers in {path}, got a file that is cut short, "
                         "altered or of another kind; it was not used. Delete it, or name another.")
    for name, value in settings.items():
        if found.get(name) != value:
            raise ValueError(f"Expected the answers in {path} to be of {name} {value}, got "
                             f"{found.get(name)}; they were not used. Delete the file, or name "
                             "another.")
    return logits
