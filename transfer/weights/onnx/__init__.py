"""ONNX graphs as steps and units that mean something, and a model's arrays found along their edges."""
