"""What commands draw: tables of what runs and of what a plan says, pictures of the topology."""
