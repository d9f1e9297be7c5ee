"""Runs as jobs of a Ray cluster: submitted, watched, stopped and resumed by name, retried when their driver fails."""
