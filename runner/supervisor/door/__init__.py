"""The supervisor's socket: who may come in, how much of each peer is kept, and what its messages are."""
