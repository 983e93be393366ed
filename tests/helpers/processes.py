"""Run a program in one process, or in several that train together."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch


def run(folder: Path, world: int, kind: str, program: str) -> list[tuple[dict, dict]]:
    """What every process ends with: its history, and its weights."""
    folder.mkdir()
    (folder / "program.py").write_text(program, "utf-8")
    together = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    launch = [sys.executable, *(together if world > 1 else [])]
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "KDCOURSE_SMOKE")}
    done = subprocess.run([*launch, str(folder / "program.py"), str(world), str(folder), kind],
                          capture_output=True, text=True, timeout=300, check=False,
                          env=environment | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return [(json.loads((folder / f"{rank}.json").read_text("utf-8")),
             torch.load(folder / f"{rank}.pt", weights_only=True))
            for rank in range(world) if (folder / f"{rank}.json").exists()]
