"""What embedder and captioner share on the compact profile: the image backbone, and how its ONNX files are built."""
