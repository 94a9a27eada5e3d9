"""One module a file format: each says where tensors lie, and reads no payload."""
