"""How a leased task becomes a child process and a report: the Claude CLI, or any command."""
