"""What this machine has, GPUs, cores, memory and packages, and which ranks use it."""
