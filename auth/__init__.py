"""Who you are and what you may do: passwords, tokens, sign-in, and the one function that decides."""
