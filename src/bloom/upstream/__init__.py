"""The runtime's connection to Membridge: where it is, the key, what is passed on, and the workers it knows."""
