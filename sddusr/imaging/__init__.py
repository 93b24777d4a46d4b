"""Reading, writing and resizing image files."""
