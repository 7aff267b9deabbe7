"""`candled doctor`: asks an endpoint what chart clients ask, and tells rule by rule whether it answers as they need."""
