"""Sparse feature matching (Eqs. 2 to 5)."""
