"""Models of others as models of Mien: torch nets, ONNX graphs, functions."""
