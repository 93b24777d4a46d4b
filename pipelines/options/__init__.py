"""The flags of the commands that have many; a script gives the same options."""
