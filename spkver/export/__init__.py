"""Export: a model as one ONNX file from waveform to embedding, and as a folder for Hugging Face."""
