"""What the host offers: durable replacement of files, memory, threads, descriptors."""
