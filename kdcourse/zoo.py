"""Teachers that are trained once and then loaded."""

import time
from pathlib import Path

import torch
from filelock import FileLock

from kdcourse import _files, _store, data, measure, models, schemes
from kdcourse._key import named, stamp
from kdcourse._machine import RESULTS, where
from kdcourse.taps import describe, predict
from kdcourse.training import Recipe, fit

KIND = "a trained teacher"

# Of each teacher: its network, a function of the seed, its own images (not those of any student),
# and its recipe.
TEACHERS = {
    "glyphs": {
        "model": lambda seed: models.resnet(depth=8, width=16, stem_stride=2, seed=seed),
        "data": {"train": 40000, "val": 2000, "test": 36, "seed": 1000},
        "recipe": Recipe(epochs=4, lr=1e-2),
    },
    "glyphs-vit": {
        "model": lambda seed: models.vit(dim=64, depth=4, patch=8, stem="conv", seed=seed),
        "data": {"train": 40000, "val": 2000, "test": 36, "seed": 2000},
        "recipe": Recipe(epochs=6, lr=4e-3),
    },
    "glyphs-vit-augmented": {
        "model": lambda seed: models.vit(dim=64, depth=4, patch=8, stem="conv", seed=seed),
        "data": {"train": 40000, "val": 2000, "test": 36, "seed": 3000},
        "augment": {"shift": 0.1, "degrees": 11, "scale": 0.15},
        "recipe": Recipe(epochs=8, lr=4e-3, clip=1.0),
    },
    "glyphs-augmented": {
        "model": lambda seed: models.resnet(depth=8, width=23, stem_stride=2, seed=seed),
        "data": {"train": 40000, "val": 2000, "test": 36, "seed": 4000},
        "augment": {"shift": 0.1, "degrees": 11, "scale": 0.15},
        "recipe": Recipe(epochs=8, lr=1e-2, clip=1.0),
    },
    "glyphs-4000": {
        "model": lambda seed: models.resnet(depth=8, width=16, stem_stride=2, seed=seed),
        "data": {"train": 4000, "seed": 0},
        "augment": {"shift": 0.1, "rotate": 0.2, "scale": 0.15},
        "recipe": Recipe(epochs=30, lr=1e-2, weight_decay=0.05),
    },
}


def teacher(name: str = "glyphs", refresh: bool = False, seed: int = 0) -> torch.nn.Module:
    """Load a trained teacher; the first call trains it (a minute or two).

    * "glyphs": a ResNet-8, trained on 40,000 glyphs of its own.
    * "glyphs-4000": the same ResNet-8, trained on the 4,000 images of `kd.data.glyphs(train=4000,
      seed=0)`, augmented: a teacher that has seen no image that its student does not see.
    * "glyphs-vit": a vision transformer of four layers behind a stem of convolutions, trained on
      40,000 other glyphs, from labels only.
    * "glyphs-vit-augmented": the same transformer, on 40,000 others, augmented as the students'
      images are in chapter 6, for 8 epochs.
    * "glyphs-augmented": a ResNet-8 with about as many weights, on 40,000 others, augmented in the
      same way, for as many epochs.

    It is kept in `KDCOURSE_HOME/teachers` as a safetensors file with a card: the recipe, the
    fingerprint of the data, the accuracy, versions and seconds, also in `model.card`. A training
    that was killed leaves nothing behind; of two processes one trains and the other waits.

    refresh: train anew, also when there is one.
    seed: above 0, another teacher of the same kind: other first weights, another order, and, of
        those that have images of their own, other images.

    Raises `ValueError` for an unknown name, for a seed that is no whole number of at least 0, and
    for a file that was altered or cut short.
    """
    if name not in TEACHERS:
        raise ValueError(f"Expected one of the teachers {sorted(TEACHERS)}, got {name!r}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1000:
        raise ValueError(f"Expected a seed from 0 to 999, got {seed!r}.")
    entry = TEACHERS[name]
    model = entry["model"](seed)
    images = dict(entry["data"])
    if images["seed"]:  # 0 are the students' images
        images["seed"] += seed
    origin = {"name": name, "model": describe(model), "recipe": named(entry["recipe"]),
              "data": images, "fingerprint": data.glyphs_fingerprint(), "results": RESULTS}
    if seed:
        origin["seed"] = seed
    if "augment" in entry:
        origin["augment"] = entry["augment"]
    model.spec = f"teacher({name!r}, seed={seed})" if seed else f"teacher({name!r})"
    folder = _files.make_folder(_files.home() / "teachers")
    for smoke in (False, True):  # smoke mode trains its own only where there is no other
        settings = origin | {"smoke": smoke}
        path = folder / f"{name}-{_files.digest(settings)[:10]}.safetensors"
        if not _files.smoke() or (path.exists() and not refresh):
            break

    def make_data():
        own = data.glyphs(**images)
        return data.augmented(own, **entry["augment"]) if "augment" in entry else own

    trained(model, path, settings, make_data, entry["recipe"],
            seed=seed, label=f"training the teacher {name!r} once", refresh=refresh, renew=(
                f"Delete it, or call kd.teacher({name!r}, refresh=True), to train it again."))
    stamp(model, ["teacher", origin | {"recipe": entry["recipe"]}])
    return model.cpu().to(memory_format=torch.channels_last).eval().requires_grad_(False)


def trained(model: torch.nn.Module, path: Path, settings: dict, make_data, recipe: Recipe, *,
            label: str, renew: str, seed: int = 0, refresh: bool = False, checkpoint=None) -> None:
    """Load the weights that a file of these settings holds, or train on the labels and keep them.

    Of two processes one trains and the other waits. `model.card` has the settings, the accuracy on
    the validation images, versions and seconds. make_data: called where the network is trained.
    renew: how to get a file that is right, for the message. checkpoint: as for `kd.fit`.

    Raises `ValueError` for a file of other settings, or one that was altered or cut short.
    """
    with FileLock(f"{path}.lock"):  # the system releases it when its holder is killed
        if path.exists() and not refresh:
            header, weights = _store.load(path, KIND, settings, renew=renew)
            model.load_state_dict(weights)
            model.card = header["card"]
            return
        own, start = make_data(), time.perf_counter()
        history = fit(schemes.Supervised(model), own, recipe, seed=seed, label=label,
                      checkpoint=checkpoint)
        if history.interrupted:
            raise KeyboardInterrupt("The teacher's training was stopped; the next call starts "
                                    + ("anew." if checkpoint is None else "where it ended."))
        accuracy = measure.accuracy(predict(model, own.val.x), own.val.y)
        seconds = time.perf_counter() - start if checkpoint is None else history.seconds
        model.card = settings | {"accuracy": accuracy, "seconds": seconds, **where(history.device)}
        with _files.warn_if_not_kept("The teacher was trained but not kept.", stacklevel=5):
            _store.save(path, KIND, model.state_dict(), settings, card=model.card)
