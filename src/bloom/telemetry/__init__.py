"""What the runtime tells of itself: metrics and traces. Whoever counts or traces imports from here; nothing here knows a task."""
