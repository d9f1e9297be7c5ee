"""What a run needs and how fast it may go, worked out from its configuration and the model's config.json alone."""
