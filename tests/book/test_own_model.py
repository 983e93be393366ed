"""Every piece of code on the page "Distil your own model" runs, from top to bottom."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "book" / "own_model.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.S | re.M)


def test_there_is_code_on_the_page():
    assert len(BLOCKS) > 15


def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch, smoke, capsys):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    scope = {"__name__": "page"}
    for block in BLOCKS:
        exec(compile(block, PAGE.name, "exec"), scope)
    printed = capsys.readouterr().out
    assert "labels only" in printed and "weights" in printed
    assert {path.name for path in tmp_path.iterdir()} >= {
        "answers.safetensors", "run.safetensors", "student.pt", "student.onnx"}


def test_the_three_lines_run_as_a_script_in_two_processes(tmp_path):
    """What the page says about `torchrun`."""
    first = [block for block in BLOCKS if "from_loaders" not in block]
    data, networks = first[0], next(block for block in first if "resnet18" in block)
    lines = next(block for block in first if "kd.report" in block).replace("adapted", "teacher")
    script = tmp_path / "distil.py"
    script.write_text(f"{data}\n{networks}\n{lines}\nprint('trained', len(history))\n", "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(script)],
        capture_output=True, text=True, encoding="utf-8", cwd=tmp_path,
        env={**os.environ, "KDCOURSE_SMOKE": "1", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("trained") == 2
