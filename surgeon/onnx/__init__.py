"""A Llama as an ONNX graph whose weights are the byte ranges of its safetensors files."""
