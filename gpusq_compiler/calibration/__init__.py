"""User data: reading, checking, synthesising, collecting ranges."""
