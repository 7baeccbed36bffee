"""The command: its progress, its messages, and what it does when it is interrupted."""
