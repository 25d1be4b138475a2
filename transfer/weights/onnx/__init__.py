"""ONNX graphs as units that mean something, and a model's arrays found along their edges."""
