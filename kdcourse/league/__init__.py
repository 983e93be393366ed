"""A league on CIFAR-100: every loss with its published weight, one protocol, rows that add up.

    python -m kdcourse.league FOLDER --pair resnet56-resnet20 --methods KD,AT --seeds 5
"""

from kdcourse.league.methods import METHODS, PAIRS, Method, Pair
from kdcourse.league.runs import League, Run, images, protocol

__all__ = ["METHODS", "PAIRS", "League", "Method", "Pair", "Run", "images", "protocol"]
