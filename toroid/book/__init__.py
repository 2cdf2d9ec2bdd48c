"""The companion's machinery: what the pages of the book share, and the command line."""
