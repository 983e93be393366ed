"""python -m kdcourse.distil FOLDER: a long training recipe for folders of images, with a teacher.

FOLDER has train/CLASS/*.jpg and val/CLASS/*.jpg (or png, webp …), as ImageNet often lies. Student
and teacher are networks of timm, by name. Chapter 12 of the course measures, on a small task, what
each part of the recipe brings; `--without` leaves parts out. `--help` lists the options.

    python -m kdcourse.distil FOLDER --teacher beit_base_patch16_224 --student resnet50
    torchrun --standalone --nproc-per-node 8 -m kdcourse.distil FOLDER ...

Where a run was stopped, the same command goes on. Shapes: B batch, C channels, H W size.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset, default_collate
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from kdcourse import data as kdata
from kdcourse._machine import default_device
from kdcourse.losses import CE, KD
from kdcourse.models.reference import Normalize
from kdcourse.schemes import Distiller, Supervised, export
from kdcourse.taps import predict
from kdcourse.teachers import Live
from kdcourse.training import Recipe, fit

PARTS = ("teacher", "mix", "randaugment", "ema", "lamb", "warmup")
KEPT = 10  # epochs whose weights are averaged at the end


def network(name: str, weights: str | None, classes: int, pretrained: bool) -> nn.Module:
    """Make a network of timm that takes images in [0, 1], of any size: its own normalisation comes
    first. For a teacher this is the input adapter. Raises `ValueError` for other classes."""
    import timm  # seconds to import

    own = {} if pretrained and not weights else {"num_classes": classes}
    model = timm.create_model(name, pretrained=pretrained and not weights, **own)
    if weights:
        model.load_state_dict(load_file(weights))
    if model.num_classes != classes:
        raise ValueError(f"Expected a teacher for the {classes} classes of the folder, got {name} "
                         f"with {model.num_classes}. Fine-tune it on your images first, save its "
                         "weights with safetensors, and give them as --teacher-weights.")
    given = model.pretrained_cfg
    return nn.Sequential(Normalize(tuple(given["mean"]), tuple(given["std"])), model)


def own_size(model: nn.Module) -> tuple[int, int]:
    """Give the height and width that a network of `network` was made for."""
    return tuple(model[1].pretrained_cfg["input_size"][1:])


class Mix:
    """Collate a batch by MixUp (Beta(0.2, 0.2)) or CutMix (Beta(1, 1)), one of them at a time. The
    labels become [B, K], and the teacher gets the mixed images."""

    def __init__(self, classes: int):
        self.choice = v2.RandomChoice([v2.MixUp(alpha=0.2, num_classes=classes),
                                       v2.CutMix(alpha=1.0, num_classes=classes)])

    def __call__(self, samples):
        return self.choice(*default_collate(samples))


def images(options) -> tuple[kdata.Dataset, Dataset]:
    """Read the folder: loaders of which each process has its part, and all validation images."""
    small, tensor = options.size, [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    randaugment = []
    if "randaugment" in options.parts:
        from timm.data.auto_augment import rand_augment_transform

        randaugment = [rand_augment_transform("rand-m7-mstd0.5", {
            "translate_const": round(0.45 * small), "img_mean": (124, 116, 104)})]
    train = ImageFolder(options.folder / "train", v2.Compose([
        v2.RandomResizedCrop(small), v2.RandomHorizontalFlip(options.flip), *randaugment, *tensor]))
    val = ImageFolder(options.folder / "val", v2.Compose([
        v2.Resize(round(small / 0.875)), v2.CenterCrop(small), *tensor]))
    if train.classes != val.classes:
        raise ValueError(f"Expected the same classes in train and val of {options.folder}, got "
                         f"{len(train.classes)} and {len(val.classes)}.")
    if "mix" in options.parts and options.batch == options.world:
        raise ValueError("Expected at least two images in the batch of a process to mix, got one. "
                         "Raise --batch, or add --without mix.")
    share = {"batch_size": options.batch // options.world, "num_workers": options.workers,
             "persistent_workers": False, "pin_memory": torch.cuda.is_available()}

    def loader(part, shuffle, **more):  # one process reads everything, several a part each
        sampler = DistributedSampler(part, options.world, options.rank, shuffle, options.seed)
        return DataLoader(part, sampler=sampler, **share, **more)

    mix = {"collate_fn": Mix(len(train.classes))} if "mix" in options.parts else {}
    dataset = kdata.from_loaders(
        loader(train, True, **mix), loader(val, False), classes=train.classes,
        name=options.folder.resolve().name,
        version=f"{small} pixels, {', '.join(sorted(options.parts & {'mix', 'randaugment'}))}")
    return dataset, val


def lamb(groups, lr):
    """Make the optimiser LAMB (You et al. 2020, arXiv:1904.00962)."""
    from timm.optim import Lamb

    return Lamb(groups, lr=lr)


class Best:
    """Keep the weights of the best epochs in a folder; their mean is a network, too."""

    def __init__(self, folder: Path, scheme):
        self.folder, self.scheme = folder, scheme
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, row: dict) -> None:
        """Note an epoch: its weights are kept while it is among the best."""
        state = {name: t.detach().cpu().contiguous()
                 for name, t in export(self.scheme).state_dict().items()}
        save_file(state, self.folder / f"{row['val_accuracy']:.6f}-{row['epoch']:05d}.safetensors")
        for file in sorted(self.folder.iterdir())[:-KEPT]:
            file.unlink()

    def mean(self) -> nn.Module:
        """Average the kept weights, batch statistics included."""
        model = export(self.scheme)
        states = [load_file(file) for file in sorted(self.folder.iterdir())]
        model.load_state_dict({name: torch.stack([state[name].double() for state in states]).mean(0)
                               for name in states[0]})
        return model


def accuracy(logits_of, part: Dataset, options) -> float:
    """Compute the accuracy on all images of a part, in this process."""
    right = sum(int((logits_of(x).argmax(1).cpu() == y).sum()) for x, y in DataLoader(
        part, options.batch // options.world, num_workers=options.workers))
    return right / len(part)


def make_scheme(options, dataset, val: Dataset):
    """Make student, teacher and loss; print the accuracy of the teacher first."""
    classes = len(dataset.classes)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        student = network(options.student, None, classes, pretrained=False)
    if "teacher" in options.parts:
        model = network(options.teacher, options.teacher_weights, classes, pretrained=True)
        size = own_size(model)
        resize = None if size == (options.size,) * 2 else v2.Resize(size, antialias=True)
        teacher = Live(model, resize).to(default_device())
        if options.rank == 0:
            drawn = torch.randperm(len(val), generator=torch.Generator().manual_seed(0))[:2000]
            right = accuracy(teacher.predict, Subset(val, drawn.tolist()), options)
            print(f"teacher: {right:.1%} right on {len(drawn)} validation images", flush=True)
        a = options.alpha
        told = KD(T=options.T) if a == 1 else (1 - a) * CE() + a * KD(T=options.T)
        scheme = Distiller(student, teacher, told)
    else:
        scheme = Supervised(student)
    return scheme.averaged(options.ema) if "ema" in options.parts else scheme


def main(arguments=None) -> None:
    """Train a student of timm by a teacher of timm, on folders of images."""
    options = _options(arguments)
    dataset, val = images(options)
    scheme = make_scheme(options, dataset, val)
    recipe = Recipe(
        epochs=options.epochs, batch=options.batch, lr=options.lr,
        weight_decay=options.weight_decay, precision=options.precision, schedule="cosine",
        warmup=min(0.5, 5 / options.epochs) if "warmup" in options.parts else 0.0,
        optimizer=lamb if "lamb" in options.parts else "adamw")
    say(options, f"{scheme!r}\n{recipe!r}")
    best = Best(options.out / "best", scheme) if options.rank == 0 else None
    history = fit(scheme, dataset, recipe, options.seed, label="student", on_epoch=best,
                  checkpoint=options.out / "run.safetensors")
    if history.interrupted or options.rank:
        return
    for name, model in {"last": export(scheme), "mean-of-best": best.mean()}.items():
        save_file({key: t.cpu().contiguous() for key, t in model.state_dict().items()},
                  options.out / f"{name}.safetensors")
        right = accuracy(lambda x, model=model: predict(model, x), val, options)
        print(f"{name}: {right:.2%} right on {len(val)} validation images, in "
              f"{options.out / name}.safetensors")


def say(options, text: str) -> None:
    """Print in the first process only."""
    if options.rank == 0:
        print(text, flush=True)


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
            ("lr", float, 5e-3, "peak rate, for LAMB and this batch"),
            ("weight-decay", float, 0.02, "not on biases and norms"),
            ("alpha", float, 0.8, "weight of the teacher; the labels have the rest"),
            ("T", float, 1.0, "temperature"), ("ema", float, 0.9999, "decay of the average"),
            ("size", int, 224, "height and width of the images"),
            ("flip", float, 0.5, "probability of mirroring"),
            ("workers", int, 8, "that read images, in each process"),
            ("seed", int, 0, "of first weights and order")):
        add(f"--{name}", type=kind, default=default, help=f"{what} (%(default)s)")
    add("--precision", choices=("fp32", "bf16"), default="bf16" if torch.cuda.is_available()
        else "fp32", help="bf16 is mixed precision (%(default)s here)")
    options = parser.parse_args(arguments)
    left_out = {part for part in options.without.replace(" ", "").split(",") if part}
    if left_out - set(PARTS):
        parser.error(f"Expected parts of {', '.join(PARTS)} after --without, got "
                     f"{', '.join(sorted(left_out - set(PARTS)))}.")
    options.parts = set(PARTS) - left_out
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
