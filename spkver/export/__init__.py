"""A model out of the house: as one ONNX file from waveform to embedding, and as a folder for Hugging Face."""
