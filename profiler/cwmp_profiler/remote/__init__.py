"""Sessions on a board over ssh: the desk's side, the board's side, and the protocol."""
