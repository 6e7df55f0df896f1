"""Games of several moves: the text of the game is observed, a move is the action."""
