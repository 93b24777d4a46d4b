"""What every command needs of Ray."""
