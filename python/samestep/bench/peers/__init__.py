"""The contestants' scripts, and what they share. Each runs as a process of its own, in whatever environment has its library."""
