"""What this machine has: GPUs, cores, memory, packages, and whose is what."""
