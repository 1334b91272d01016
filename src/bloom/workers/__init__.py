"""The machines that take tasks."""
