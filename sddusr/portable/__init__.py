"""Runs an exported package with only onnxruntime and NumPy; nothing here imports PyTorch."""
