"""Runs an exported package with onnxruntime and NumPy alone; nothing here imports PyTorch."""
