"""Pages for people: HTML in one piece, and plots as inline SVG."""
