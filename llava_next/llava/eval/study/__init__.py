"""The learning study: what a model learns per visual token from each way to choose patches."""
