"""python -m kdcourse.distil FOLDER: a long training recipe for folders of images, with a teacher.

FOLDER has train/CLASS/*.jpg and val/CLASS/*.jpg (or png, webp …), as ImageNet often lies. Student
and teacher are networks of timm, by name. Chapter 12 of the course measures, on a small task, what
each part of the recipe brings; `--without` leaves parts out. `--help` lists the options. Images in
test/CLASS, if there are any, are used once, at the end.

    python -m kdcourse.distil FOLDER --teacher beit_base_patch16_224 --student resnet50
    torchrun --standalone --nproc-per-node 8 -m kdcourse.distil FOLDER ...

Where a run was stopped, the same command goes on. Shapes: B batch, C channels, H W size.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset, default_collate
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from kdcourse import _files, _store
from kdcourse import data as kdata
from kdcourse._machine import default_device
from kdcourse._random import seeded
from kdcourse.losses import CE, KD
from kdcourse.models.reference import Normalize
from kdcourse.schemes import Distiller, Supervised, export
from kdcourse.taps import predict
from kdcourse.teachers import EMA, Live
from kdcourse.training import Recipe, fit
from kdcourse.training.checkpoint import KIND

PARTS = ("teacher", "mix", "randaugment", "ema", "lamb", "warmup")
KEPT = 10  # epochs whose weights are averaged at the end


def network(name: str, weights: str | None, classes: int, pretrained: bool) -> nn.Module:
    """Make a network of timm that takes images in [0, 1], of any size: its own normalisation comes
    first. For a teacher this is the input adapter. Raises `ValueError` for an unknown name, and for
    weights that cannot be loaded or are of other classes."""
    import timm  # seconds to import

    own = {} if pretrained and not weights else {"num_classes": classes}
    try:
        model = timm.create_model(name, pretrained=pretrained and not weights, **own)
        if weights:
            model.load_state_dict(load_file(weights))
    except (RuntimeError, OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"Expected a network of timm, got {name} with weights from "
                         f"{weights or 'timm'} for {classes} classes: {reason[:300]}. Names are in "
                         "timm.list_models(); weights are a model.state_dict(), saved with "
                         "safetensors.torch.save_file.") from error
    if model.num_classes != classes:
        raise ValueError(f"Expected a teacher for the {classes} classes of the folder, got {name} "
                         f"with {model.num_classes}. Fine-tune it on your images first, save its "
                         "weights with safetensors, and give them as --teacher-weights.")
    given = model.pretrained_cfg
    return nn.Sequential(Normalize(tuple(given["mean"]), tuple(given["std"])), model)


class Mix:
    """Collate a batch by MixUp (Beta(0.2, 0.2)) or CutMix (Beta(1, 1)), one of them at a time. The
    labels become [B, K], and the teacher gets the mixed images."""

    def __init__(self, classes: int):
        self.choice = v2.RandomChoice([v2.MixUp(alpha=0.2, num_classes=classes),
                                       v2.CutMix(alpha=1.0, num_classes=classes)])

    def __call__(self, samples):
        return self.choice(*default_collate(samples))


def images(options) -> tuple[kdata.Dataset, Dataset, Dataset | None]:
    """Read the folder: loaders of which each process has its part, all validation images, and all
    test images if there are any. Raises `ValueError` where classes differ or have no images."""
    small, tensor = options.size, [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    randaugment = []
    if "randaugment" in options.parts:
        from timm.data.auto_augment import rand_augment_transform

        randaugment = [rand_augment_transform("rand-m7-mstd0.5", {
            "translate_const": round(0.45 * small), "img_mean": (124, 116, 104)})]
    whole = [v2.Resize(round(small / 0.875)), v2.CenterCrop(small), *tensor]
    train = _part(options.folder / "train", [
        v2.RandomResizedCrop(small), v2.RandomHorizontalFlip(options.flip), *randaugment, *tensor])
    val = _part(options.folder / "val", whole, train)
    test = options.folder / "test"
    test = _part(test, whole, train) if test.exists() else None
    if len(train) < options.batch:
        raise ValueError(f"Expected at least {options.batch} images in train, got {len(train)}. "
                         "Lower --batch, and --lr with it.")
    if "mix" in options.parts and options.batch == options.world:
        raise ValueError("Expected at least two images in the batch of a process to mix, got one. "
                         "Raise --batch, or add --without mix.")
    share = {"batch_size": options.batch // options.world, "num_workers": options.workers,
             "persistent_workers": False, "pin_memory": torch.cuda.is_available()}
    mix = {"collate_fn": Mix(len(train.classes))} if "mix" in options.parts else {}
    # One process reads everything, several a part each: as many training images, some of them
    # twice for that, and each validation image once.
    drawn = DistributedSampler(train, options.world, options.rank, seed=options.seed)
    dataset = kdata.from_loaders(
        DataLoader(train, sampler=drawn, **share, **mix),
        DataLoader(val, sampler=range(options.rank, len(val), options.world), **share),
        classes=train.classes, counts={"val": -(-len(val) // options.world)},
        name=options.folder.resolve().name, version=f"{small} pixels, flip {options.flip}, "
        f"{', '.join(sorted(options.parts & {'mix', 'randaugment'}))}")
    return dataset, val, test


def _part(path: Path, transforms: list, train: ImageFolder | None = None) -> ImageFolder:
    try:
        part = ImageFolder(path, v2.Compose(transforms))
    except OSError as error:
        raise ValueError(f"Expected a folder of images for each class in {path}, got none: {error}"
                         ) from None
    ours, theirs = part.class_to_idx, (train or part).class_to_idx
    if differing := [f"{name} (only in {path.name if name in ours else 'train'})"
                     for name in sorted(ours.keys() ^ theirs.keys())]:
        raise ValueError(f"Expected the same classes in train and {path.name} of {path.parent}, "
                         f"got {', '.join(differing[:5])}{' and more' if differing[5:] else ''}.")
    return part


def lamb(groups, lr):
    """Make the optimiser LAMB (You et al. 2020, arXiv:1904.00962)."""
    from timm.optim import Lamb

    def counting(optimizer, *_):  # a checkpoint brings timm's count of steps back as a number
        for group in optimizer.param_groups:
            if isinstance(group.get("step"), float):
                group["step"] = torch.tensor(group["step"])

    made = Lamb(groups, lr=lr)
    made.register_step_pre_hook(counting)
    return made


class Best:
    """Keep the weights of a run's best epochs in the folder best/; their mean is a network, too.

    They are copied from the checkpoint, which also says what belongs there: so nothing of another
    run stays, and a run that was killed goes on with all of them. Raises `ValueError` where a file
    was deleted."""

    def __init__(self, out: Path):
        self.run, self.folder = out / "run.safetensors", out / "best"
        self.folder.mkdir(parents=True, exist_ok=True)
        self()
        if missing := [file.name for file in self.files if not file.exists()]:
            raise ValueError(f"Expected the best epochs of {self.run} in {self.folder}, got none: "
                             f"{', '.join(missing)}. Delete {self.run} to begin anew.")

    def __call__(self, row: dict | None = None) -> None:
        """Bring the folder to the state of the checkpoint."""
        header, tensors = {"history": {"rows": []}}, {}
        if self.run.exists():
            header, tensors = _store.load(self.run, KIND, {})
        file = {row["epoch"]: self.folder / f"{row['val_accuracy']:.6f}-{row['epoch']:05d}"
                ".safetensors" for row in header["history"]["rows"]}
        self.files = sorted(file.values())[-KEPT:]
        for other in {*self.folder.iterdir()} - {*self.files}:
            other.unlink()
        last = file.get(len(file))
        if last in self.files and not last.exists():
            averaged = any(name.startswith("scheme._average.") for name in tensors)
            judged = f"scheme.{'_average.model' if averaged else 'student'}.1."  # 0 normalises
            save(last, {name.removeprefix(judged): t for name, t in tensors.items()
                        if name.startswith(judged)})

    def mean(self, model: nn.Module) -> nn.Module:
        """Give a network of `network` the mean of the kept weights, and of batch statistics."""
        states = [load_file(file) for file in self.files]
        model[1].load_state_dict({
            name: torch.stack([state[name].double() for state in states]).mean(0)
            for name in states[0]})
        return model


def save(file: Path, state: dict[str, torch.Tensor]) -> None:
    """Write weights, as a whole or not at all."""
    _files.write(file, to_bytes({name: t.cpu().contiguous() for name, t in state.items()}))


def accuracy(logits_of, part: Dataset, options) -> float:
    """Compute the accuracy on all images of a part, in this process."""
    right = sum(int((logits_of(x).argmax(1).cpu() == y).sum()) for x, y in DataLoader(
        part, options.batch // options.world, num_workers=options.workers))
    return right / len(part)


def make_scheme(options, dataset, val: Dataset):
    """Make student, teacher and loss; print the accuracy of the teacher first. Raises `ValueError`
    for one near chance."""
    classes = len(dataset.classes)
    with seeded(options.seed):
        student = network(options.student, None, classes, pretrained=False)
    if "teacher" in options.parts:
        model = network(options.teacher, options.teacher_weights, classes, pretrained=True)
        size = tuple(model[1].pretrained_cfg["input_size"][1:])  # that it was made for
        resize = None if size == (options.size,) * 2 else v2.Resize(size, antialias=True)
        teacher = Live(model, resize).to(default_device())
        if options.rank == 0:
            drawn = torch.randperm(len(val), generator=torch.Generator().manual_seed(0))[:2000]
            right = accuracy(teacher.predict, Subset(val, drawn.tolist()), options)
            print(f"teacher: {right:.1%} right on {len(drawn)} validation images", flush=True)
            if right < 0.1 + 0.9 / classes:
                raise ValueError(
                    "Expected a teacher at least a tenth of the way from chance to all right, "
                    f"{0.1 + 0.9 / classes:.1%}, got {right:.1%}. Are its classes in another order "
                    "than the sorted names of the folders (here "
                    f"{', '.join(dataset.classes[:3])} …)? Else its weights are of other images, "
                    "or it wants another normalisation than timm says.")
        a = options.alpha
        told = KD(T=options.T) if a == 1 else (1 - a) * CE() + a * KD(T=options.T)
        scheme = Distiller(student, teacher, told)
    else:
        scheme = Supervised(student)
    return scheme.averaged(options.ema) if "ema" in options.parts else scheme


def main(arguments=None) -> None:
    """Train a student of timm by a teacher of timm, on folders of images."""
    options = _options(arguments)
    dataset, val, test = images(options)
    scheme = make_scheme(options, dataset, val)
    recipe = Recipe(
        epochs=options.epochs, batch=options.batch, lr=options.lr,
        weight_decay=options.weight_decay, clip=1.0,  # as LAMB clips by itself
        precision=options.precision, schedule="cosine",
        warmup=min(0.5, 5 / options.epochs) if "warmup" in options.parts else 0.0,
        optimizer=lamb if "lamb" in options.parts else "adamw")
    best = None
    if options.rank == 0:
        print(f"{scheme!r}\n{recipe!r}", flush=True)
        best = Best(options.out)
    history = fit(scheme, dataset, recipe, options.seed, label="student", on_epoch=best,
                  on_step=lambda step: widen(step, options.ema),
                  checkpoint=options.out / "run.safetensors")
    if history.interrupted or options.rank:
        return
    parts = {"validation": val} | ({"test": test} if test else {})
    for name, model in {"last": export(scheme), "mean-of-best": best.mean(export(scheme))}.items():
        save(options.out / f"{name}.safetensors", model[1].state_dict())
        right = ", ".join(
            f"{accuracy(lambda x, model=model: predict(model, x), part, options):.2%} right on "
            f"{len(part)} {kind} images" for kind, part in parts.items())
        print(f"{name}: {right}, in {options.out / name}.safetensors")
    print(f"The {len(best.files)} epochs of the mean were chosen on these validation images, so "
          "its accuracy there is optimistic. " + (
              "Report the one on the test images." if test else
              f"Put other images into {options.folder / 'test'}/CLASS, and repeat the command."))


def widen(step, decay: float) -> None:
    """Keep the moving average to about a tenth of the steps so far, or the first weights, which
    are random, would stay in it: its decay is at most (1 + t) / (10 + t) in step t."""
    for part in step.scheme.children():
        if isinstance(part, EMA):
            part.decay = min(decay, (1 + step.number) / (10 + step.number))


def _options(arguments):
    parser = argparse.ArgumentParser("python -m kdcourse.distil", description=main.__doc__)
    add = parser.add_argument
    add("folder", type=Path, help="with train/CLASS/*.jpg and val/CLASS/*.jpg")
    add("--teacher", default="beit_base_patch16_224", help="a network of timm (%(default)s)")
    add("--teacher-weights", help="a file of safetensors; without it, timm's own are downloaded")
    add("--student", default="resnet50", help="a network of timm (%(default)s)")
    add("--without", default="", help=f"parts to leave out, of {', '.join(PARTS)}")
    add("--out", type=Path, default=Path("distilled"), help="a folder for results (%(default)s)")
    for name, kind, default, what in (
            ("epochs", int, 300, "passes over the images"),
            ("batch", int, 1024, "images in a step, over all processes"),
            ("weight-decay", float, 0.02, "not on biases and norms"),
            ("alpha", float, 0.8, "weight of the teacher; the labels have the rest"),
            ("T", float, 1.0, "temperature"),
            ("ema", float, 0.9999, "decay of the average; in step t at most (1 + t) / (10 + t)"),
            ("size", int, 224, "height and width of the images"),
            ("flip", float, 0.5, "probability of mirroring"),
            ("workers", int, 8, "that read images, in each process"),
            ("seed", int, 0, "of first weights and order")):
        add(f"--{name}", type=kind, default=default, help=f"{what} (%(default)s)")
    add("--lr", type=float, help="peak rate, for batches of about a thousand (0.005 for LAMB; "
        "0.001 for AdamW, which --without lamb takes)")
    add("--precision", choices=("fp32", "bf16"), default="bf16" if torch.cuda.is_available()
        else "fp32", help="bf16 is mixed precision (%(default)s here)")
    options = parser.parse_args(arguments)
    left_out = {part for part in options.without.replace(" ", "").split(",") if part}
    if left_out - set(PARTS):
        parser.error(f"Expected parts of {', '.join(PARTS)} after --without, got "
                     f"{', '.join(sorted(left_out - set(PARTS)))}.")
    options.parts = set(PARTS) - left_out
    if options.lr is None:  # of the published recipe; of DeiT (Touvron et al. 2021)
        options.lr = 5e-3 if "lamb" in options.parts else 1e-3
    options.world = int(os.environ.get("WORLD_SIZE", 1))
    options.rank = int(os.environ.get("RANK", 0))
    if options.batch < 1 or options.batch % options.world:
        parser.error(f"Expected --batch as a multiple of the {options.world} processes, got "
                     f"{options.batch}.")
    if not 0 < options.alpha <= 1:
        parser.error(f"Expected --alpha above 0, up to 1, got {options.alpha}. Labels only: "
                     "--without teacher.")
    return options


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Stopped. The same command goes on where this one ended.")
