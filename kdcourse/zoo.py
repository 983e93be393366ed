"""Teachers that are trained once and then loaded."""

import json
import time
from pathlib import Path

import safetensors.torch
import torch
from filelock import FileLock
from safetensors import SafetensorError

from kdcourse import _files, data, measure, models, schemes
from kdcourse._key import named, stamp
from kdcourse._machine import RESULTS, where
from kdcourse.taps import describe, predict
from kdcourse.training import Recipe, fit

# What each teacher is: its network, its own images (not those of any student), and how it learns.
TEACHERS = {
    "glyphs": {
        "model": lambda: models.resnet(depth=8, width=16, stem_stride=2, seed=0),
        "data": {"train": 40000, "val": 2000, "test": 36, "seed": 1000},
        "recipe": Recipe(epochs=4, lr=1e-2),
    },
    "glyphs-vit": {
        "model": lambda: models.vit(dim=64, depth=4, patch=8, stem="conv", seed=0),
        "data": {"train": 40000, "val": 2000, "test": 36, "seed": 2000},
        "recipe": Recipe(epochs=6, lr=4e-3),
    },
}


def teacher(name: str = "glyphs", refresh: bool = False) -> torch.nn.Module:
    """Load a trained teacher; the first call trains it (a minute or two).

    * "glyphs": a ResNet-8, trained on 40,000 glyphs of its own.
    * "glyphs-vit": a vision transformer of four layers behind a stem of convolutions, trained on
      40,000 other glyphs, from labels only.

    The weights lie in `KDCOURSE_HOME/teachers` as safetensors, beside a JSON card with the recipe,
    the fingerprint of the data, the accuracy, versions and seconds; `model.card` holds it. A
    training that was killed leaves nothing behind; of two processes one trains, the other waits.

    refresh: train anew, also when there is one.

    Raises `ValueError` for an unknown name, and for files that were altered or cut short, which
    stay as they are.
    """
    if name not in TEACHERS:
        raise ValueError(f"Expected one of the teachers {sorted(TEACHERS)}, got {name!r}.")
    entry = TEACHERS[name]
    model = entry["model"]()
    model.spec = f"teacher({name!r})"
    expected = {
        "name": name, "model": describe(entry["model"]()),
        "recipe": named(entry["recipe"]), "data": entry["data"],
        "fingerprint": data.glyphs_fingerprint(), "results": RESULTS, "smoke": False,
    }
    folder = _folder(expected)
    if _files.smoke() and not (folder / "card.json").exists():  # a trained one is taken as it is
        expected["smoke"] = True
        folder = _folder(expected)
    _files.make_folder(folder)
    weights, card = folder / "model.safetensors", folder / "card.json"
    with FileLock(folder / "lock"):  # released by the system when its holder is killed
        if refresh:
            card.unlink(missing_ok=True)
        if not card.exists():  # never finished, or to be remade
            model.card = _train(model, entry, expected)
            content = safetensors.torch.save(
                {key: tensor.contiguous() for key, tensor in model.state_dict().items()})
            model.card["sha256"] = _files.digest(content)
            with _files.warn_if_not_kept("The teacher was trained but not kept."):
                _files.write(weights, content)
                _files.write_json(card, model.card)  # last: its presence says that all is there
        else:
            model.card = _load(model, weights, card, expected)
    what = {key: value for key, value in expected.items() if key != "smoke"}
    stamp(model, ["teacher", what | {"recipe": entry["recipe"]}])
    return model.cpu().to(memory_format=torch.channels_last).eval().requires_grad_(False)


def _folder(expected: dict) -> Path:
    """Where a teacher lies. Another recipe, font file or kdcourse is another folder, so it is
    trained anew, and nothing that was trained before is lost."""
    version = _files.digest(expected)[:10]
    return _files.home() / "teachers" / f"{expected['name']}-{version}"


def _train(model, entry, expected) -> dict:
    own = data.glyphs(**entry["data"])
    start = time.perf_counter()
    history = fit(schemes.Supervised(model), own, entry["recipe"], seed=0,
                  label=f"training the teacher {expected['name']!r} once")
    if history.interrupted:
        raise KeyboardInterrupt("The teacher's training was stopped; the next call starts anew.")
    accuracy = measure.accuracy(predict(model, own.val.x), own.val.y)
    return expected | {"accuracy": accuracy, "seconds": time.perf_counter() - start,
                       **where(history.device)}


def _load(model, weights, card, expected) -> dict:
    remedy = (f"Delete the folder {card.parent}, or call "
              f"kd.teacher({expected['name']!r}, refresh=True), to train it again.")
    try:
        found = json.loads(card.read_text(encoding="utf-8"))
        different = [key for key, value in expected.items() if found.get(key) != value]
    except (ValueError, AttributeError):
        raise ValueError(f"Expected a teacher's card in {card}, got a file that is cut short or "
                         f"altered; it was not used. {remedy}") from None
    if different:
        raise ValueError(f"Expected the card {card} to be for this teacher, but it differs in "
                         f"{', '.join(different)}; it was not used. {remedy}")
    try:
        content = weights.read_bytes()
        if _files.digest(content) != found.get("sha256"):
            raise SafetensorError("its checksum is not the card's")
        model.load_state_dict(safetensors.torch.load(content))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"Expected the teacher's weights in {weights}, got a file that is cut "
                         f"short or altered; it was not loaded ({error}). {remedy}") from None
    return found
