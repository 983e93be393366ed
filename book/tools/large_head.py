"""How fast is the loss head of a large vocabulary in chunks, and what memory does it need?

`python book/tools/large_head.py` on a machine with a GPU: 128 k outputs, 8,192 positions, width
2,048, 0.1 * CE() + 0.9 * KD(T=4), whole, with checkpoints and in chunks of several sizes, forward
and backward. On a CPU, and with --smoke, sizes are small: the numbers then mean nothing. The
contenders take turns; prints a table, and the rows as JSON with --json.

Memory is the peak on the GPU, with what is there before a step, divided by the least: inputs,
weights of both sides, and the student's gradients [M, D] and, in float32, [V, D].
"""

import argparse
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import kdcourse as kd
from kdcourse.losses import CE, KD, chunked

SIZES = {"M": 8192, "V": 128 * 1024, "D": 2048}
SMOKE = {"M": 48, "V": 256, "D": 16}
CHUNKS = (64, 256, 1024, 4096)
OBJECTIVE = 0.1 * CE() + 0.9 * KD(T=4)


def inputs(device, dtype, M: int, V: int, D: int):
    """Hidden states and weights of both sides, and labels of which a quarter do not count."""
    rng = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=rng).to(device, dtype)  # noqa: E731
    student = [draw(M, D).requires_grad_(), (draw(V, D) / D**0.5).requires_grad_()]
    labels = torch.randint(V, (M,), generator=rng)
    labels[: M // 4] = -100
    return *student, draw(M, D), draw(V, D) / D**0.5, labels.to(device)


def whole(h, W, teacher_h, teacher_W, labels):
    """As one writes it: all logits of the rows that count."""
    kept = labels != -100
    with torch.no_grad():
        answers = F.linear(teacher_h[kept], teacher_W)
    return OBJECTIVE(F.linear(h[kept], W), answers, labels[kept])


def checkpointed(h, W, teacher_h, teacher_W, labels, rows: int = 1024):
    """In chunks, whose logits are computed again in the backward pass."""
    kept = labels != -100
    parts = zip(*(x[kept].split(rows) for x in (h, teacher_h, labels)), strict=True)
    total = kept.sum()
    return sum(len(y) / total * checkpoint(whole, a, W, b, teacher_W, y, use_reentrant=False)
               for a, b, y in parts)


def contenders() -> dict:
    """All ways by name."""
    def ours(rows):
        return lambda *given: chunked(OBJECTIVE, *given, chunk=rows)
    return {"whole": whole, "checkpoints": checkpointed} | {
        f"chunks of {rows}": ours(rows) for rows in CHUNKS}


def least(given) -> int:
    """The bytes that no way can do without."""
    h, W, *_ = given
    return sum(x.numel() * x.element_size() for x in (*given, h)) + 4 * W.numel()


def measure(loss, given) -> tuple[float, float, float]:
    """Seconds, peak bytes (0 where they are not counted) and value of a step."""
    device = given[0].device
    for x in given[:2]:
        x.grad = None
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    value = loss(*given)
    value.backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return seconds, torch.cuda.max_memory_allocated() if device.type == "cuda" else 0, float(
        value.detach())


def compare(device, dtype, sizes: dict, rounds: int = 5) -> list[dict]:
    """Rows of all contenders: medians over rounds in which they take turns."""
    given = inputs(device, dtype, **sizes)
    rows = {name: {"name": name, "seconds": []} for name in contenders()}
    for turn in range(rounds + 1):
        for name, loss in contenders().items():
            row = rows[name]
            if "not_run" in row:
                continue
            try:
                seconds, peak, value = measure(loss, given)
            except torch.OutOfMemoryError as error:
                row["not_run"] = str(error).partition(".")[0]
                continue
            row |= {"value": value} | ({"memory": peak / least(given)} if peak else {})
            row["seconds"] += [seconds] if turn else []  # the first warms up
    for row in rows.values():
        row["seconds"] = statistics.median(row["seconds"]) if row["seconds"] else None
    return list(rows.values())


def table(rows: list[dict]) -> str:
    """One line for each way; times beside that of the whole where it ran."""
    base = rows[0]["seconds"]
    lines = [f"{'':16}{'seconds':>10}{'of whole':>10}{'memory':>10}"]
    for row in rows:
        if row["seconds"] is None:
            lines.append(f"{row['name']:16}{row['not_run']}")
            continue
        share = f"{row['seconds'] / base:.2f}" if base else "-"
        memory = f"{row['memory']:.2f}" if "memory" in row else "-"
        lines.append(f"{row['name']:16}{row['seconds']:10.4f}{share:>10}{memory:>10}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="small sizes")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--json", action="store_true", help="print the rows as well")
    chosen = parser.parse_args()
    device = kd.default_device()
    smoke = chosen.smoke or device.type != "cuda"
    sizes = SMOKE if smoke else SIZES
    rows = compare(device, getattr(torch, chosen.dtype), sizes, rounds=1 if smoke else 5)
    name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    print(f"{name}, torch {torch.__version__}, {chosen.dtype}, {sizes}"
          + (": small sizes, the numbers mean nothing" if smoke else ""))
    print(table(rows))
    if chosen.json:
        print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
