"""The commands, as a terminal user calls them."""
