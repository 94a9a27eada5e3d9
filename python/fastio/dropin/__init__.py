"""The interfaces of safetensors and of h5py, over the reader and the saver."""
