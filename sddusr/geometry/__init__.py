"""Boxes and homographies in pixels."""
