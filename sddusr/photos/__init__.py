"""Upscale a user's own pairs of images, and record what was done."""
