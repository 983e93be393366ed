"""Cards that a reader can move: in the book, in JupyterLab and in Colab, from one piece of code.

Each function returns an object that a notebook shows when it is the last line of a cell. Its HTML
holds everything (no kernel, no network), and stays the same from run to run. Where scripts do not
run, a still version is seen. The reader's answers stay in the reader's browser.

Texts may hold `code` and *emphasis*; write maths as plain characters (T², α).
"""

from .pictures import divergence, gallery, layers, push, temperature
from .quiz import bet, question, score

__all__ = ["bet", "divergence", "gallery", "layers", "push", "question", "score", "temperature"]
