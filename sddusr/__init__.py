"""SDDuSR: dual-lens super-resolution by sparse feature matching and token dictionaries."""

__version__ = "0.1.0"
