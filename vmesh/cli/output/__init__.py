"""What commands draw: tables of what runs, pictures of the topology."""
