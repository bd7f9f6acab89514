"""The shapes world: a synthetic set small enough to train on in an hour, made so that words must be read."""

from .attributes import COLOURS, SHAPES, TEXTURES, ObjectKind, all_kinds, is_held_out
from .readers import read_with_one_attribute
from .wording import Wording
from .writer import SplitPlan, write_split
