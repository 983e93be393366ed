"""The rows of losses on inner tensors."""

from laws_feature_maps import ROWS_MAPS
from laws_feature_more import ROWS_MORE

ROWS = [*ROWS_MAPS, *ROWS_MORE]
