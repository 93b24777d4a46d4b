"""What an ablation is made of: see `ablation.py`."""
