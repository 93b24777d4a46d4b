"""Upscaling over HTTP: a page, an API, and the replicas that do the work."""
