"""What the runtime tells of itself: metrics and traces. Nothing here knows what a task is."""
