"""Pictures straight from a camera: which belong together, what is to be done, what was done."""
