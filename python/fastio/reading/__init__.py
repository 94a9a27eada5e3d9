"""A located source becomes tensors: whole, one at a time, in parts, as a stream, into memory."""
