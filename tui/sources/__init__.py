"""Where events come from and commands go: a socket, a journal, the files of a run."""
