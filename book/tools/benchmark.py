"""How fast is `fit`, beside the floor and beside what one would use instead? `nox -s bench`.

One run, one machine, the same networks, data, loss, optimiser and batch for all. Training steps
only. The contenders take turns, so that a busy moment hits all of them; medians are compared, as
ratios. What is not installed, and what needs a GPU that is not there, says so.
"""

import argparse
import copy
import functools
import importlib.metadata
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

import bounds
import kdcourse as kd
from kdcourse.experiment import where

PATH = Path(__file__).with_suffix(".json")
ALPHA, T = 0.9, 4.0
STEPS = 31  # an epoch of 4,000 images in batches of 128
EPOCHS = 3  # that `fit` makes for each measurement


def _glyphs(count: int):
    return (kd.data.glyphs(train=count, val=36, test=36),
            kd.models.resnet(depth=8, width=16, stem_stride=2, seed=0),
            lambda: kd.models.convnet(width=16, seed=1))


def _resnets(count: int):
    make = functools.partial(kd.models.resnet, channels=3, classes=10, size=32)
    return _colour(count), make(depth=56, seed=0), lambda: make(depth=20, seed=1)


def _transformers(count: int):
    make = functools.partial(kd.models.vit, patch=4, channels=3, classes=10, size=32)
    return (_colour(count), make(dim=384, depth=12, heads=6, seed=0),
            lambda: make(dim=192, depth=6, heads=3, seed=1))


def _colour(count: int):
    x = torch.rand(count + 200, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    y = torch.arange(len(x)) % 10
    few, more = slice(count, count + 100), slice(count + 100, None)
    return kd.data.from_arrays(x[:count], y[:count], val=(x[few], y[few]), test=(x[more], y[more]),
                               name="noise")


SETTINGS = {
    "glyphs: ResNet-8 to a small convnet": _glyphs,
    "32 x 32 colour: ResNet-56 to ResNet-20": _resnets,
    "32 x 32 colour: ViT of width 384 to width 192": _transformers,
}


class Setting:
    """What all contenders share: data, networks, batch, device and precision."""

    def __init__(self, device, precision: str = "fp32", name: str = next(iter(SETTINGS)),
                 batch: int = 128):
        self.device, self.precision, self.batch, self.name = device, precision, batch, name
        self.steps = STEPS
        self.data, teacher, self.student = SETTINGS[name](STEPS * batch)
        self.teacher = teacher.to(device).eval().requires_grad_(False)
        self.cached = kd.Cached(self.teacher, self.data)
        self.x, self.y = self.data.train.x, self.data.train.y

    def autocast(self, precision=None):
        enabled = (precision or self.precision) == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def timed(self, step: Callable, batches) -> float:
        """Images per second of a training step over some batches."""
        count = 0
        self.wait()
        start = time.perf_counter()
        for batch in batches:
            step(*batch)
            count += len(batch[1])
        self.wait()
        return count / (time.perf_counter() - start)


def loss(student, teacher, y):
    """Hinton's loss, as one writes it by hand."""
    soft = F.kl_div((student / T).log_softmax(1), (teacher / T).log_softmax(1),
                    reduction="batchmean", log_target=True)
    return (1 - ALPHA) * F.cross_entropy(student, y) + ALPHA * T**2 * soft


# --- contenders: each prepares itself once and returns a function that measures one epoch --------


def _step(setting: Setting, live=False, compiled=False, captured=False) -> Callable:
    """A step of network, loss and optimiser on one fixed batch."""
    model = setting.student().to(setting.device).to(memory_format=torch.channels_last).train()
    teacher = copy.deepcopy(setting.teacher).to(memory_format=torch.channels_last)
    x = setting.x[: setting.batch].to(setting.device)
    y = setting.y[: setting.batch].to(setting.device)
    answers = setting.cached.logits[: setting.batch].to(setting.device)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3, fused=True, capturable=captured)

    def whole(x, y, answers):
        with setting.autocast():
            if live:
                with torch.no_grad():
                    answers = teacher(x)
            return loss(model(x).float(), answers.float(), y)

    forward = torch.compile(whole) if compiled else whole

    def step():
        forward(x, y, answers).backward()
        optimizer.step()
        optimizer.zero_grad()

    return _graph(step, setting).replay if captured else step


def floor(setting: Setting, live: bool = False, compiled: bool = False,
          captured: bool = False) -> Callable:
    """The least that any loop must do: network, loss and optimiser on one fixed batch. captured: as
    one CUDA graph, so that a step does not wait for kernels to be launched."""
    step = _step(setting, live, compiled, captured)
    batches = [(None, setting.y[: setting.batch])] * setting.steps
    return lambda: setting.timed(lambda x, y: step(), batches)


def _graph(step: Callable, setting: Setting):
    """Capture a step as a CUDA graph, after a few steps on another stream."""
    _need_cuda(setting)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph


def _need_cuda(setting: Setting) -> None:
    if setting.device.type != "cuda":
        raise RuntimeError(f"a step is captured on CUDA devices only, got {setting.device}")


def ours(setting: Setting, live: bool = False, compiled: bool = False,
         captured: bool = False) -> Callable:
    """`kd.fit`, an epoch at a time."""
    if captured:
        _need_cuda(setting)
    teacher = kd.Live(setting.teacher) if live else setting.cached
    scheme = kd.Distiller(setting.student(), teacher, kd.losses.hinton(T, ALPHA))
    recipe = kd.Recipe(epochs=EPOCHS, batch=setting.batch, precision=setting.precision,
                       validate_every=EPOCHS, compile=compiled, capture=captured)

    def measure():
        history = kd.fit(scheme, setting.data, recipe, device=setting.device)
        if captured and history.step != "captured":
            raise RuntimeError(history.step)
        # The second epoch: the first compiles, the last looks at the validation split.
        return setting.steps * setting.batch / history["seconds"][1]

    measure.epochs = EPOCHS
    return measure


def tutorial(setting: Setting, resident=False, cached=False, channels_last=False, bf16=False,
             fused=False, quiet=False, compiled=False) -> Callable:
    """The loop of the usual tutorial: a `DataLoader`, a live teacher, `loss.item()` in each step;
    in full precision, whatever the others have. Each argument changes one thing."""
    device = setting.device
    model = setting.student().to(device).train()
    teacher = copy.deepcopy(setting.teacher)
    if channels_last:
        model, teacher = (net.to(memory_format=torch.channels_last) for net in (model, teacher))
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3, fused=fused)
    places = torch.arange(len(setting.x))
    tensors = torch.utils.data.TensorDataset(setting.x, setting.y, places)
    loader = torch.utils.data.DataLoader(tensors, setting.batch, shuffle=True, drop_last=True)
    x, y = setting.x.to(device), setting.y.to(device)
    answers = setting.cached.logits.to(device)
    forward = torch.compile(model) if compiled else model
    precision = "bf16" if bf16 else "fp32"

    def on_device():
        for index in torch.randperm(len(x), device=device).split(setting.batch):
            yield x[index], y[index], index

    def step(x, y, index):
        x, y = x.to(device), y.to(device)
        with setting.autocast(precision):
            if cached:
                target = answers[index.to(device)]
            else:
                with torch.no_grad():
                    target = teacher(x)
            value = loss(forward(x).float(), target.float(), y)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if not quiet:
            value.item()  # for the running loss that is printed

    return lambda: setting.timed(step, on_device() if resident else loader)


def timm_task(setting: Setting) -> Callable:
    """timm's distillation task, in a loop with a `DataLoader`."""
    from timm import task

    device = setting.device
    student, teacher = setting.student().to(device), copy.deepcopy(setting.teacher)
    for net in (student, teacher):
        # What timm's own models have; our networks normalise for themselves.
        channels = setting.data.shape[0]
        net.num_classes, net.in_chans = len(setting.data.classes), channels
        net.pretrained_cfg = {"mean": (0.0,) * channels, "std": (1.0,) * channels}
    made = task.LogitDistillationTask(
        student, teacher, temperature=T,
        task_loss_weight=1 - ALPHA, criterion=torch.nn.CrossEntropyLoss(), device=device,
        verbose=False)
    made.train()
    trained = [p for p in made.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 5e-3)
    tensors = torch.utils.data.TensorDataset(setting.x, setting.y)
    loader = torch.utils.data.DataLoader(tensors, setting.batch, shuffle=True, drop_last=True)

    def step(x, y):
        with setting.autocast():
            value = made(x.to(device), y.to(device))["loss"]
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return lambda: setting.timed(step, loader)


def torchdistill_box(setting: Setting) -> Callable:
    """torchdistill's `DistillationBox`, in the loop of its examples."""
    from torch.utils import data
    from torchdistill.core.distillation import get_distillation_box

    logits = {f"{who}_module_{what}": value for who in ("student", "teacher")
              for what, value in (("path", "."), ("io", "output"))}
    term = {"key": "KDLoss", "kwargs": logits | {"temperature": T, "alpha": 1 - ALPHA}}
    net = {"forward_proc": "forward_batch_only"}
    config = {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train", "sampler": {"class_or_func": data.RandomSampler},
            "kwargs": {"batch_size": setting.batch, "drop_last": True},
        },
        "teacher": net | {"requires_grad": False},
        "student": net,
        "optimizer": {"key": "AdamW", "kwargs": {"lr": 5e-3}},
        "criterion": {"key": "WeightedSumLoss",
                      "kwargs": {"sub_terms": {"kd": {"criterion": term, "weight": 1.0}}}},
    }
    images = {"train": data.TensorDataset(setting.x, setting.y)}
    box = get_distillation_box(
        copy.deepcopy(setting.teacher), setting.student().to(setting.device), images, config,
        setting.device, None, False, 1)

    def step(x, y, extra):
        with setting.autocast():
            value = box.forward_process(x.to(setting.device), y.to(setting.device), extra)
        box.post_forward_process(value)

    def measure():
        box.pre_epoch_process(epoch=0)
        return setting.timed(step, box.train_data_loader)

    return measure


def hugging_face_trainer(setting: Setting) -> Callable:
    """Hugging Face's `Trainer` with a KD loss in `compute_loss`; its own count of images/s."""
    import tempfile

    import transformers

    teacher = copy.deepcopy(setting.teacher)

    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return len(setting.x)

        def __getitem__(self, i):
            return {"x": setting.x[i], "labels": setting.y[i]}

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = setting.student()

        def forward(self, x, labels=None):
            return {"logits": self.inner(x)}

    class Distilling(transformers.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **_):
            with torch.no_grad():
                answers = teacher(inputs["x"])
            return loss(model(inputs["x"])["logits"].float(), answers.float(), inputs["labels"])

    model = Wrapped()

    def measure():
        with tempfile.TemporaryDirectory() as folder:
            arguments = transformers.TrainingArguments(
                folder, per_device_train_batch_size=setting.batch, max_steps=setting.steps,
                learning_rate=5e-3, save_strategy="no", report_to=[], disable_tqdm=True,
                logging_strategy="no", bf16=setting.precision == "bf16",
                use_cpu=setting.device.type == "cpu", remove_unused_columns=False)
            trainer = Distilling(model, arguments, train_dataset=Images())
            trainer.remove_callback(transformers.PrinterCallback)
            return trainer.train().metrics["train_samples_per_second"]

    return measure


CONTENDERS = {
    "floor, answers given": floor,
    "floor, live teacher": lambda s: floor(s, live=True),
    "floor, answers given, compiled": lambda s: floor(s, compiled=True),
    "fit, cached teacher": ours,
    "fit, live teacher": lambda s: ours(s, live=True),
    "fit, cached teacher, compiled": lambda s: ours(s, compiled=True),
    "the usual tutorial": tutorial,
    "timm.task": timm_task,
    "torchdistill": torchdistill_box,
    "Hugging Face Trainer": hugging_face_trainer,
}
CHANGES = {
    "nothing": {},
    "data on the device": {"resident": True},
    "stored answers": {"cached": True},
    "channels last": {"channels_last": True},
    "bf16": {"bf16": True},
    "fused optimiser": {"fused": True},
    "no loss.item()": {"quiet": True},
    "compiled student": {"compiled": True},
    "all but bf16 and compiled": {"resident": True, "cached": True, "channels_last": True,
                                  "fused": True, "quiet": True},
}
CAPTURED = {  # on a GPU they are the floor, and what comes near it
    "floor, answers given, captured": lambda s: floor(s, captured=True),
    "floor, live teacher, captured": lambda s: floor(s, live=True, captured=True),
    "fit, cached teacher, captured": lambda s: ours(s, captured=True),
    "fit, live teacher, captured": lambda s: ours(s, live=True, captured=True),
}
NEEDS = {"timm.task": "timm", "torchdistill": "torchdistill",
         "Hugging Face Trainer": "transformers"}


def contenders(device) -> dict[str, Callable]:
    """What runs on a device: on a GPU also steps that are captured."""
    return CONTENDERS | (CAPTURED if device.type == "cuda" else {})


def short(device) -> dict[str, Callable]:
    """The floors and `fit`, for a first look at a machine."""
    return {name: make for name, make in contenders(device).items()
            if name.startswith(("floor", "fit")) and "compiled" not in name}


def compare(contenders: dict[str, Callable], setting: Setting, rounds: int) -> list[dict]:
    """Images per second of each contender: the median over `rounds`, taken in turns.

    Each is made anew in every round, so that its tensors do not lie in the same place in memory
    throughout: a lucky or unlucky place is a part of the spread.
    """
    seen, idles, failed = {name: [] for name in contenders}, {}, {}
    for turn in range(rounds):
        order = [name for name in contenders if name not in failed]
        first = turn % max(1, len(order))
        for name in order[first:] + order[:first]:
            torch.compiler.reset()
            try:
                measure = contenders[name](setting)
                measure()  # to warm up: compilers, caches, threads
                seen[name].append(measure())
                if setting.device.type == "cuda" and turn == rounds - 1:
                    idles[name] = idle(setting, measure, statistics.median(seen[name]))
            except Exception as error:  # a peer that cannot run says so, and the others go on
                failed[name] = f"{type(error).__name__}: {error}"[:200]
        print(f"round {turn + 1} of {rounds}", file=sys.stderr)
    rows = []
    for name, values in seen.items():
        row = {"name": name}
        if name in failed:
            row["not_run"] = failed[name]
        else:
            low, middle, high = statistics.quantiles(values, n=4)
            row |= {"images_per_second": middle, "quartiles": [low, high], "rounds": rounds}
            if name in NEEDS:
                row["version"] = importlib.metadata.version(NEEDS[name])
            if name in idles:
                row["idle"] = idles[name]
        rows.append(row)
    return rows


def idle(setting: Setting, measure: Callable, images_per_second: float) -> float:
    """The share of the time in which the GPU computes nothing, because the loop is not ready.

    Kernels take as long under the profiler as without it, but the loop around them does not. So
    their seconds per image come from the profiler and the images per second do not.
    """
    with torch.profiler.profile() as profile:
        measure()
    images = getattr(measure, "epochs", 1) * setting.steps * setting.batch
    # Each kernel is noted twice: as itself, and at the operation on the CPU that launched it.
    microseconds = sum(event.self_device_time_total for event in profile.key_averages()
                       if event.device_type != torch.autograd.DeviceType.CPU
                       and not event.is_user_annotation)
    return max(0.0, 1 - microseconds / 1e6 / images * images_per_second)


def fastest(device) -> str:
    """The precision that is faster for the small student."""
    setting = Setting(device)
    scheme = kd.Distiller(setting.student(), setting.cached)
    recipe = kd.Recipe(epochs=1, batch=setting.batch)
    return kd.fastest(scheme, setting.data, recipe, device=device).precision


def growth(rounds: int) -> list[dict]:
    """Seconds per epoch and memory of the data, for more images and a larger teacher, cached."""
    rows = []
    for images, width in ((1, 16), (4, 16), (16, 16), (1, 32), (1, 64)):
        data = kd.data.glyphs(train=images * 1024, val=36, test=36)
        teacher = kd.models.resnet(depth=8, width=width, stem_stride=2).eval()
        start = time.perf_counter()
        cached = kd.Cached(teacher, data)
        once = time.perf_counter() - start
        kept = sum(t.nbytes for t in (data.train.x, data.train.y, cached.logits))
        seconds = []
        for _ in range(rounds):
            scheme = kd.Distiller(kd.models.convnet(width=16, seed=1), cached)
            recipe = kd.Recipe(epochs=EPOCHS, batch=128, validate_every=EPOCHS)
            history = kd.fit(scheme, data, recipe, device="cpu")
            seconds.append(history["seconds"][1])
        rows.append({"images": images * 1024, "teacher_width": width,
                     "seconds_per_epoch": statistics.median(seconds),
                     "seconds_to_store_answers": once, "megabytes_kept": kept / 1e6})
    return rows


def bounded(setting: Setting, rounds: int, large: bool = True) -> dict:
    """What bounds a step: see `bounds`. Measured are the floors, on a GPU also captured."""
    of, rows = bounds.machine(setting.device, setting.precision, large), []
    shape = setting.data.shape
    for live in (False, True):
        operations, moved = bounds.counted(_step(setting, live))
        teacher = copy.deepcopy(setting.teacher).cpu() if live else None
        work = bounds.flops(setting.student(), teacher, shape, setting.batch)
        row = {"name": "live teacher" if live else "answers given", "operations": operations,
               "bytes": moved, "flops": work,
               "seconds": bounds.bounds(operations, moved, work, of)}
        for captured in (False, True)[: 1 + (setting.device.type == "cuda")]:
            step = _step(setting, live, captured=captured)
            row["captured" if captured else "eager"] = bounds.best(step, setting.device,
                                                                   10 * rounds)
        rows.append(row)
    return {"what": "bounds", "setting": setting.name, "precision": setting.precision,
            "batch": setting.batch, "machine": of, "rows": rows}


def run(rounds: int = 7, path: Path = PATH) -> list[dict]:
    """Measure everything that this machine can, and write it beside what other machines did."""
    device = kd.default_device()
    first, *others = SETTINGS
    settings = [(precision, first) for precision in dict.fromkeys(("fp32", fastest(device)))]
    if device.type == "cuda":
        settings += [("bf16", name) for name in others]
    found = []
    for precision, name in settings:
        setting = Setting(device, precision, name)
        found.append({"what": "contenders", "setting": setting.name, "precision": precision,
                      "rows": compare(contenders(device), setting, rounds)})
        found.append(bounded(setting, rounds))
    setting = Setting(device)
    changes = {name: lambda s, change=change: tutorial(s, **change)
               for name, change in CHANGES.items()}
    found.append({"what": "changes", "setting": setting.name, "precision": "fp32",
                  "rows": compare(changes, setting, rounds)})
    if device.type == "cpu":
        found.append({"what": "growth", "setting": setting.name, "rows": growth(min(rounds, 5))})
    place = where(str(device))
    found = [entry | place for entry in found]
    if device.type != "cuda":
        found.append({"what": "contenders", "hardware": "a CUDA GPU", "rows": [],
                      "not_run": "no CUDA GPU was at hand; `nox -s bench` on one adds its rows"})
    save(found, path)
    return found


def save(found: list[dict], path: Path = PATH) -> None:
    """Put results in the place of earlier ones of the same hardware; keep those of others."""
    kept = load(path)
    hardware = {entry["hardware"] for entry in found}
    measured = any("not_run" not in e and "CPU" not in e["hardware"] for e in [*kept, *found])
    kept = [entry for entry in kept if entry["hardware"] not in hardware]
    found = [entry for entry in [*kept, *found] if not (measured and "not_run" in entry)]
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")


def load(path: Path = PATH) -> list[dict]:
    """What was measured so far, on every hardware."""
    return json.loads(path.read_text("utf-8")) if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--path", type=Path, default=PATH)
    chosen = parser.parse_args()
    for entry in run(chosen.rounds, chosen.path):
        setting = f"{entry['setting']}, " if "setting" in entry else ""
        print(f"\n{entry['what']}: {setting}{entry['hardware']}")
        for row in entry["rows"]:
            if "seconds_per_epoch" in row:
                print(f"  {row['images']:6,} images, teacher of width {row['teacher_width']}: "
                      f"{row['seconds_per_epoch']:.3f} s an epoch, {row['megabytes_kept']:.1f} MB")
            elif "flops" in row:
                parts = {**row["seconds"], **{k: row[k] for k in ("eager", "captured") if k in row}}
                print(f"  {row['name']:16}" + ", ".join(
                    f"{name} {1e3 * value:.2f} ms" for name, value in parts.items()))
            elif "not_run" in row:
                print(f"  {row['name']:36}not run: {row['not_run']}")
            else:
                idle_share = f", GPU idle {row['idle']:.0%}" if "idle" in row else ""
                print(f"  {row['name']:36}{row['images_per_second']:12,.0f} images/s{idle_share}")
        if not entry["rows"]:
            print(f"  {entry['not_run']}")


if __name__ == "__main__":
    main()
