"""Reading models and saying something about them; nothing here changes one."""
