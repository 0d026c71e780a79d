"""Talk to a model: one engine behind the terminal chat and the server."""
