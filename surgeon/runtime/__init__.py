"""Runs an exported graph in onnxruntime: session, caches, choice of tokens, generation."""
