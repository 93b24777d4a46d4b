"""Metrics, scores and tables."""
