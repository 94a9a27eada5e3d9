"""fastio and its rivals: how each is called, in the process that measures it."""
