"""The files that travel in pruned folders; they import nothing of surgeon."""
