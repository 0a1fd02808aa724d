"""`mtad chat`: a conversation in the terminal, or with the lines of a pipe."""
