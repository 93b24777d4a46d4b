"""Numbers that the statistics of a whole Ref are made with, in PyTorch and in NumPy."""

BLOCK_PX = 8
"""Side of the blocks in which noise is looked for."""
FLAT_SHARE = 0.2
"""Share of the blocks, the flattest ones of the centre, in which Ref's fine band is noise."""
LEAST_CONTRAST = 1.5 / 255
"""Contrast below which the wide image is noise."""
COLOR_ERROR = 0.5
"""Share of a contrast that counts as the chroma's, too: two lenses spread colours differently."""
USUAL_SHARE = 0.7
"""Share of the blocks that doubt Ref less than is usual in the image."""
USUAL_DOUBT = 0.2, 1.0
"""Limits of the usual doubt. Of good Refs it is 0.14 to 0.34, of phones' 0.5 to 1; it is less where
most of Ref was filled with the centre, and more where most of it shows something else."""
