"""Services of the host: durable replacement of files, memory, threads, descriptors."""
