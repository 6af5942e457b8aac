"""From raw event files to batches of sessions."""
