"""The interface of safetensors, over the reader and the saver."""
