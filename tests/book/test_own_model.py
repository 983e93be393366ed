"""The page "Distil your own model": every piece of its code runs as it is printed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import stats

import kdcourse as kd

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "book" / "own_model.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)
ELSEWHERE = ("import transformers\n\n\ndef classifier", "class Scheming", "from accelerate",
             "import lightning")  # loops of others, each with a test of its own below


def blocks(*titles) -> list[str]:
    """The code of some sections, in the order of the page."""
    _, *found = re.split(r"^## (.*)\n", PAGE, flags=re.M)
    sections = dict(zip(found[::2], found[1::2], strict=True))
    assert set(titles) <= set(sections)
    return [block for title in titles
            for block in re.findall(r"^```python\n(.*?)^```", sections[title], re.S | re.M)]


def run(code, scope=None) -> dict:
    scope = {"__name__": "page"} if scope is None else scope
    for block in code:
        exec(compile(block, "own_model.md", "exec"), scope)
    return scope


@pytest.fixture
def page(tmp_path, monkeypatch, smoke):
    """Run the first sections, then others, in a folder of their own; what they define."""
    monkeypatch.chdir(tmp_path)

    def sections(*titles):
        networks, _ = blocks("In twelve lines of PyTorch")
        data = "val_loader = DataLoader(TensorDataset(images, labels), batch_size=64)\n"
        data += "data = kd.data.from_arrays(images, labels)"
        return run([networks, data, *blocks(*titles)])
    return sections


def test_lines_are_short():
    assert len(BLOCKS) > 20
    assert [line for block in BLOCKS for line in block.splitlines() if len(line) > 88] == []


def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch, smoke, capsys):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    for number in range(20):
        file = tmp_path / "photos" / "train" / ("cat" if number % 2 else "dog") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 40), (9 * number, 0, 0)).save(file)
    scope = run(block for block in BLOCKS if not any(start in block for start in ELSEWHERE))
    assert scope["photos"].shape == (3, 32, 32) and scope["photos"].classes == ("cat", "dog")
    printed = capsys.readouterr().out
    assert "labels only" in printed and "weights" in printed
    assert {path.name for path in tmp_path.iterdir()} >= {
        "answers", "answers.safetensors", "run.safetensors", "student.pt", "student.onnx"}


def test_every_piece_of_code_is_run_by_a_test():
    assert all(any(start in block for block in BLOCKS) for start in ELSEWHERE)
    titles = ("In the Trainer of Hugging Face", "With Accelerate", "With Lightning")
    assert [block for block in BLOCKS if any(start in block for start in ELSEWHERE)] == blocks(
        *titles)


def test_the_loop_has_twelve_lines_and_the_loss_of_fit(monkeypatch):
    """The last step of the loop: its gradient is that of `kd.Distiller`, in the same precision."""
    first, loop = blocks("In twelve lines of PyTorch")
    assert loop.count("\n") == 12
    scope = run([first.replace("400", "64"), loop])
    student, teacher = scope["student"].eval(), scope["teacher"]  # no batch statistics, no dropout
    student.zero_grad()
    logits = student(scope["x"])
    soft = F.kl_div((logits / 4).log_softmax(1), (teacher(scope["x"]).detach() / 4).softmax(1),
                    reduction="batchmean")
    (0.1 * F.cross_entropy(logits, scope["y"]) + 0.9 * 4**2 * soft).backward()
    expected = [p.grad.clone() for p in student.parameters()]
    student.zero_grad()
    (scheme,) = re.findall(r"^scheme = (.*)$", blocks("The same with `kd.fit`")[0], re.M)
    scheme = eval(scheme, scope)
    outcome = scheme.eval()(kd.data.Batch(scope["x"], scope["y"], None))
    outcome.loss.backward()
    for one, other in zip(student.parameters(), expected, strict=True):
        torch.testing.assert_close(one.grad, other, rtol=1e-3, atol=1e-6)


def rows(where, split="val") -> dict[int, float]:
    """Seed: accuracy, of the rows of chapter 1 whose texts hold all these pieces."""
    found = json.loads((ROOT / "kdcourse" / "results" / "01.json").read_text("utf-8"))["rows"]
    found = [row for row in found if row["split"] == split and "train=4000," in row["data"]
             and all(piece in f"{row['scheme']} {row['recipe']} {row['data']} " for piece in where)]
    seeds = {row["seed"]: 100 * row["accuracy"] for row in found}
    assert len(seeds) == len(found) >= 2, where
    return seeds


def recorded(where, seeds: int) -> float:
    """The mean over the first seeds, on the validation images."""
    found = rows(where)
    return fmean(found[seed] for seed in range(seeds))


def best(where) -> float:
    """The highest mean over the settings of rate and weight decay that the chapter's first search
    has tried; a later one has rates that are a factor of 2 apart."""
    found = json.loads((ROOT / "kdcourse" / "results" / "01.json").read_text("utf-8"))["rows"]
    tried = {re.search(r"lr=[^,]*, weight_decay=[^,]*,", row["recipe"])[0] for row in found
             if row["split"] == "val" and "train=4000," in row["data"] and all(
                 piece in f"{row['scheme']} {row['recipe']} {row['data']} " for piece in where)
             and any(f"lr={0.32 * 4.0**n:g}," in row["recipe"] for n in range(-4, 3))}
    return max(recorded([*where, setting], 2) for setting in tried)


TEACHER = ("0.1 * CE() + 0.9 * KD(T=4)", "teacher=Cached(teacher('glyphs'))")
LABELS = ("Supervised", " CE())")
PLAIN, AUGMENTED = "size=28) ", "'degrees': 11}, views=20"


def test_the_numbers_of_the_recipe_are_those_of_recorded_rows():
    """What the page ascribes to chapter 1."""
    page = " ".join(PAGE.split())
    gain = {images: best([*TEACHER, images]) - best([*LABELS, images])
            for images in (f"seed=0, {PLAIN}", AUGMENTED)}
    plain, fair = gain.values()
    assert (f"bring {plain:.1f} points on plain images; with augmentation for both, {fair:.1f}."
            in page)

    setting, of_own = (f"lr=0.32, weight_decay={decay}," for decay in (0.002, 0.01))
    one, other = (
        rows([*arm, AUGMENTED, "epochs=60,", setting], "test") for arm in (TEACHER, LABELS))
    differences = [one[seed] - other[seed] for seed in range(5)]
    low, high = stats.t.interval(0.95, 4, fmean(differences), stats.sem(differences))
    assert (f"chapter 1, {fmean(differences):.1f} points (95 % interval {low:.1f} to {high:.1f}, "
            "5 seeds) with a teacher of other images" in page)
    own = (TEACHER[0], "teacher=Cached(teacher('glyphs-4000'))")
    for epochs, said in (("60", "0.8 points (0.4 to 1.1), and"),
                         ("120", "0.5 points (−0.1 to 1.0) when")):
        one, other = (rows([*arm, AUGMENTED, f"epochs={epochs},", at], "test")
                      for arm, at in ((own, of_own), (LABELS, setting)))
        differences = [one[seed] - other[seed] for seed in range(5)]
        low, high = stats.t.interval(0.95, 4, fmean(differences), stats.sem(differences))
        text = f"{fmean(differences):.1f} points ({low:.1f} to {high:.1f})".replace("-", "−")
        assert said.startswith(text) and said in page

    best_of_teacher = (setting, AUGMENTED, TEACHER[1])
    terms = {"T": ("0.9 * KD(T=2)", "0.9 * KD(T=4)", "0.9 * KD(T=8)"),
             "α": ("0.25 * KD(T=4)", "0.5 * KD(T=4)", "0.9 * KD(T=4)", "size=28), KD(T=4)")}
    means = {name: [recorded([term, *best_of_teacher], 3) for term in found]
             for name, found in terms.items()}
    spread = {name: max(found) - min(found) for name, found in means.items()}
    assert f"T from 2 to 8 changes the accuracy by {spread['T']:.1f} points" in page
    assert f"α from 0.25 to 1 by {spread['α']:.1f}" in page


def test_the_trainer_of_hugging_face(page, capsys):
    """Both classes train, evaluate after each epoch and predict."""
    code = blocks("In the Trainer of Hugging Face")
    first = page()
    for block, shape in zip(code, [(48, 3), (64, 10)], strict=True):
        scope = run([block], first)
        trainer = scope["trainer"]
        logged = {name for entry in trainer.state.log_history for name in entry}
        assert {"eval_loss", "train_loss"} <= logged
        assert ("eval_accuracy" in logged) == ("compute_metrics" in block)
        assert trainer.evaluate()["eval_loss"] > 0
        assert trainer.predict(scope["rows"]).predictions.shape == shape
    assert "(64, 10)" in capsys.readouterr().out


@pytest.mark.parametrize("parts", [2, 4])
def test_the_trainer_averages_over_accumulated_batches(page, parts, monkeypatch):
    """One step of a batch in parts has the gradient of the batch."""
    scope = page("In the Trainer of Hugging Face")
    transformers, norms = scope["transformers"], {}
    for cut in (1, parts):
        torch.manual_seed(0)
        student = scope["classifier"](16)
        torch.manual_seed(1)
        teacher = scope["classifier"](32)
        for part in student.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        rows = [{"input_ids": words, "attention_mask": torch.ones_like(words), "labels": i % 3}
                for i, words in enumerate(torch.arange(96).view(8, 12))]
        arguments = transformers.TrainingArguments(
            "out", per_device_train_batch_size=8 // cut, gradient_accumulation_steps=cut,
            max_steps=1, report_to=[], save_strategy="no", disable_tqdm=True, logging_steps=1,
            max_grad_norm=1e9)
        trainer = scope["Distilling"](student, arguments, teacher=teacher, train_dataset=rows)
        trainer.train()
        norms[cut] = next(entry["grad_norm"] for entry in trainer.state.log_history
                          if "grad_norm" in entry)
    assert norms[parts] == pytest.approx(norms[1], rel=1e-3)


def test_accelerate(page):
    scope = page("With Accelerate")
    assert all(p.grad is not None for p in scope["student"].parameters())
    assert all(p.grad is None for p in scope["teacher"].parameters())


def test_lightning(page):
    pytest.importorskip("lightning")
    scope = page("With Lightning")
    trainer, scheme = scope["trainer"], scope["scheme"]
    assert set(trainer.callback_metrics) == {"CE", "KD", "val_accuracy"}
    assert not any("teacher" in name for name in trainer.model.state_dict())
    assert not scheme.teacher.training


def test_the_lines_run_as_a_script_in_two_processes(tmp_path):
    """What the page says about `torchrun`."""
    networks = blocks("In twelve lines of PyTorch")[0]
    data = next(block for block in BLOCKS if "from_arrays(images" in block)
    lines = blocks("The same with `kd.fit`")[0].partition("name=\"my-loader\")\n")[2]
    script = tmp_path / "distil.py"
    script.write_text(f"{networks}\n{data}\n{lines}\nprint('trained', len(history))\n", "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(script)],
        capture_output=True, text=True, encoding="utf-8", cwd=tmp_path,
        env={**os.environ, "KDCOURSE_SMOKE": "1", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("trained") == 2
