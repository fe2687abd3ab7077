"""What upstream imports at its start."""
