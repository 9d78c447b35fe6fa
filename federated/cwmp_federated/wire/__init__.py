"""What travels between server and clients, with nothing trusted on the way in."""
