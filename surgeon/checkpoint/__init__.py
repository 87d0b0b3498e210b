"""Checkpoint bytes: safetensors headers, where they come from, where they go, and the moving."""
