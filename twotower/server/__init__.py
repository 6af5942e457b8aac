"""A server with memory: HTTP, user events, streams, versions under traffic, a page. No torch."""
