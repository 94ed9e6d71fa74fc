"""The paper's results, and what the defaults rest on, measured again by a command."""
