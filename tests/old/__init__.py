"""Files that earlier versions wrote, and that they are read as they were meant."""
