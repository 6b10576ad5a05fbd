"""Where compute touches the world: corpus files, devices, and worker processes."""
