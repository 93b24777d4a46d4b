"""Figures, sheets and web views of results."""
